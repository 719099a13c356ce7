package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/bench"
)

func newBench(a *app) *cobra.Command {
	return group("bench", "Measure a temporary mesh on this machine", newBenchRevoke(a), newBenchSize(a))
}

// showBench prints what was measured, and against what.
func (a *app) showBench(r bench.Report) error {
	return a.show(r, func(w io.Writer) {
		rows := [][]string{{"", "P50", "P99", "MAX", "RUNS", "RATIO"}}
		for _, b := range r.Benchmarks {
			ratio := "-"
			if b.BaselineName != "" {
				ratio = fmt.Sprintf("%.3g x %s", b.Ratio, b.BaselineName)
			}
			value := func(v float64) string { return fmt.Sprintf("%.1f %s", v, b.Unit) }
			p99, most := value(b.P99), value(b.Max)
			if b.Unit != "ms" { // measured as a whole
				p99, most = "", ""
			}
			rows = append(rows, []string{b.Name, value(b.P50), p99, most, strconv.Itoa(b.Runs), ratio})
		}
		table(w, rows...)
		fmt.Fprintf(w, "\non %s\n", count(r.CPUs, "processor")) //nolint:errcheck // a strings.Builder takes everything
	})
}
