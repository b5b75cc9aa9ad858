// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"image/color"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

var colours = map[string]color.Color{
	"xvrrp": color.RGBA{R: 0x1b, G: 0x7f, B: 0x3b, A: 255}, "keepalived": color.RGBA{R: 0xc0, G: 0x39, B: 0x2b, A: 255},
	"before": color.RGBA{R: 0x7f, G: 0xc9, B: 0x7f, A: 255},
	"frr":    color.RGBA{R: 0x2c, G: 0x5a, B: 0xa0, A: 255}, "nothing wrong": color.Gray{Y: 0x99},
}

// survival is the share of trials that took longer than x.
func survival(title, axis string, series map[string][]sample) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, axis, "share of trials above"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Min, p.Y.Max = 0, 1
	p.Legend.Left = true
	p.Add(plotter.NewGrid())
	for _, name := range append(slices.Clone(everybody), "nothing wrong") {
		v := slices.Sorted(slices.Values(series[name]))
		if len(v) == 0 {
			continue
		}
		var xy plotter.XYs
		for i, x := range v {
			x = max(x, 0.1)
			xy = append(xy, plotter.XY{X: x, Y: 1 - float64(i)/float64(len(v))}, plotter.XY{X: x, Y: 1 - float64(i+1)/float64(len(v))})
		}
		line, err := plotter.NewLine(xy)
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", name, err)
		}
		line.Color, line.Width = colours[name], vg.Points(1.5)
		p.Add(line)
		p.Legend.Add(fmt.Sprintf("%s (n = %d)", name, len(v)), line)
	}
	return p, nil
}

// plotFaults draws one survival plot for each fault that was played.
func plotFaults(r *result, path string) error {
	var plots []*plot.Plot
	for _, f := range []struct{ name, title, axis, number string }{
		{"cut", "silent cut: client dark", "ms", ""},
		{"kill", "SIGKILL of the master's daemon: takeover", "ms", ""},
		{"stop", "SIGSTOP of the daemon: last answer of the hung host", "ms", ""},
		{"term", "planned stop: client dark", "ms", "client dark"},
	} {
		series := map[string][]sample{}
		for d, numbers := range r.Faults[f.name] {
			series[d] = numbers[f.number]
		}
		if len(series) == 0 {
			continue
		}
		if f.name == "cut" || f.name == "term" {
			series["nothing wrong"] = r.Floor
		}
		p, err := survival(f.title, f.axis, series)
		if err != nil {
			return err
		}
		plots = append(plots, p)
	}
	if len(plots) == 0 {
		return nil
	}
	const columns = 2
	rows := (len(plots) + columns - 1) / columns
	img := vgimg.New(columns*6*vg.Inch, vg.Length(rows)*4*vg.Inch)
	tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: vg.Points(10), PadY: vg.Points(10)}
	canvas := draw.New(img)
	for i, p := range plots {
		p.Draw(tiles.At(canvas, i%columns, i/columns))
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(out); err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	return out.Close()
}
