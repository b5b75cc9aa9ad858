// SPDX-License-Identifier: Apache-2.0

// Command xvrrpctl shows what a running xvrrpd does and why, and reloads it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/xvrrp/xvrrp/cmd/internal/build"
	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "xvrrpctl: %v\n", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var c client
	root := &cobra.Command{
		Use: "xvrrpctl", Short: "Show what a running xvrrpd does and why, and reload it",
		Version: build.Version(), SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&c.socket, "control-socket", rundir.Socket(""),
		"control socket of the daemon; the default is that of this network namespace")

	var asJSON bool
	status := &cobra.Command{
		Use: "status", Short: "Show every virtual router, its peers and the data plane", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.status(cmd, asJSON) },
	}
	status.Flags().BoolVar(&asJSON, "json", false, "print JSON")

	var follow bool
	events := &cobra.Command{
		Use: "events", Short: "Print what happened: transitions, refused adverts, alarms, reloads", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.events(cmd, follow) },
	}
	events.Flags().BoolVarP(&follow, "follow", "f", false, "print events as they happen, until interrupted")

	metrics := &cobra.Command{
		Use: "metrics", Short: "Print the Prometheus metrics", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := c.get(cmd.Context(), ctlapi.MetricsPath)
			if err != nil {
				return err
			}
			defer body.Close()
			_, err = io.Copy(cmd.OutOrStdout(), body)
			return err
		},
	}
	root.AddCommand(status, events, metrics, c.reloadCommand())
	return root
}

type client struct{ socket string }

func (c *client) get(ctx context.Context, path string) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodGet, path)
}

func (c *client) post(ctx context.Context, path string) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodPost, path)
}

func (c *client) do(ctx context.Context, method, path string) (io.ReadCloser, error) {
	hc := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://xvrrpd"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon at %s: %w", c.socket, errors.Unwrap(err))
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		var e ctlapi.Error
		if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e) == nil && e.Error != "" {
			for _, f := range e.Findings {
				e.Error += "\n" + f
			}
			return nil, errors.New(e.Error)
		}
		return nil, fmt.Errorf("ask the daemon for %s: %s", path, resp.Status)
	}
	return resp.Body, nil
}

func (c *client) status(cmd *cobra.Command, asJSON bool) error {
	body, err := c.get(cmd.Context(), ctlapi.StatusPath)
	if err != nil {
		return err
	}
	defer body.Close()
	var s ctlapi.Status
	if err := json.NewDecoder(body).Decode(&s); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	if asJSON {
		out := json.NewEncoder(cmd.OutOrStdout())
		out.SetIndent("", "  ")
		return out.Encode(s)
	}
	return render(cmd.OutOrStdout(), s)
}

// events prints what the daemon keeps, or with follow what happens from now on.
func (c *client) events(cmd *cobra.Command, follow bool) error {
	path := ctlapi.EventsPath
	if !follow {
		path += "?since=0&follow=false"
	}
	body, err := c.get(cmd.Context(), path)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		var e ctlapi.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		fmt.Fprintln(cmd.OutOrStdout(), renderEvent(e))
	}
	if cmd.Context().Err() != nil {
		return nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if !follow {
		return nil
	}
	return errors.New("the daemon has stopped")
}
