// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
)

func (c *client) reloadCommand() *cobra.Command {
	var plan, asJSON bool
	reload := &cobra.Command{
		Use: "reload", Short: "Make the daemon read its configuration again", Args: cobra.NoArgs,
		Long: "Make the daemon read its configuration again. A file with an error changes nothing.\n" +
			"Instances that do not change are not disturbed.",
		RunE: func(cmd *cobra.Command, _ []string) error { return c.reload(cmd, plan, asJSON) },
	}
	reload.Flags().BoolVar(&plan, "plan", false, "print what would change, and what other hosts would notice; change nothing")
	reload.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return reload
}

func (c *client) reload(cmd *cobra.Command, plan, asJSON bool) error {
	path := ctlapi.ReloadPath
	if plan {
		path += "?plan=true"
	}
	body, err := c.post(cmd.Context(), path)
	if err != nil {
		return err
	}
	defer body.Close()
	var r ctlapi.Reload
	if err := json.NewDecoder(body).Decode(&r); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	if asJSON {
		out := json.NewEncoder(cmd.OutOrStdout())
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	renderReload(cmd.OutOrStdout(), r)
	return nil
}

func renderReload(w io.Writer, r ctlapi.Reload) {
	for _, f := range r.Findings {
		fmt.Fprintln(w, f)
	}
	if len(r.Changes) == 0 {
		fmt.Fprintln(w, "nothing changes")
	}
	for _, ch := range r.Changes {
		line := ch.What
		if ch.Instance != "" {
			line = ch.Instance + ": " + line
		}
		if ch.Wire != "" {
			line += "; " + ch.Wire
		}
		fmt.Fprintln(w, line)
	}
}
