package main

import (
	"fmt"
	"image/color"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// colours can be told apart by those who see few.
var colours = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{0, 158, 115, 255},
	color.RGBA{204, 121, 167, 255}, color.RGBA{230, 159, 0, 255}, color.RGBA{86, 180, 233, 255},
}

// plotTable draws a bar for each row, by what and size, a colour for each way; all limits
// have the same. A table with no rows has no plot.
func plotTable(file string, t Table) error {
	var groups, ways []string
	index := func(list *[]string, s string) int {
		for i, v := range *list {
			if v == s {
				return i
			}
		}
		*list = append(*list, s)
		return len(*list) - 1
	}
	group := func(r Row) string { return strings.TrimSpace(fmt.Sprintf("%s\n%d %s", r.What, r.Size, t.SizeName)) }
	rows := slices.DeleteFunc(slices.Clone(t.Rows), func(r Row) bool { return r.Aside })
	for i, r := range rows {
		if r.Limit && t.SizeName == "" {
			rows[i].Way = "limit: bare calls"
		}
		index(&groups, group(r))
		index(&ways, rows[i].Way)
	}
	if len(groups) == 0 {
		return nil
	}
	p := plot.New()
	p.Title.Text = t.Title
	p.Y.Label.Text = "seconds (less is better)"
	p.Y.Min = 0
	p.NominalX(groups...)
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	width := vg.Points(14)
	for i, way := range ways {
		values := make(plotter.Values, len(groups))
		for _, r := range rows {
			if r.Way == way {
				values[index(&groups, group(r))] = r.Seconds
			}
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = colours[i%len(colours)], 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(ways)-1)/2)
		p.Add(bars)
		p.Legend.Add(way, bars)
	}
	return p.Save(vg.Points(float64(260+len(groups)*(len(ways)*14+40))), vg.Points(320), file)
}
