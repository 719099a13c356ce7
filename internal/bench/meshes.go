package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
)

// eachMesh measures on a mesh of each size, of one server and of three unless said
// otherwise, in directories that go away afterwards.
func eachMesh(nodes []int, measure func(dir string, nodes int) ([]Row, error)) (report Report, err error) {
	if len(nodes) == 0 {
		nodes = []int{1, 3}
	}
	report = Report{Schema: Schema, CPUs: runtime.GOMAXPROCS(0), Benchmarks: []Row{}}
	dir, err := os.MkdirTemp("", "sealmesh-bench-")
	if err != nil {
		return report, fmt.Errorf("bench: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(dir); e != nil && err == nil { // it holds keys, if only of meshes that are gone
			err = fmt.Errorf("bench: %w", e)
		}
	}()
	for _, n := range nodes {
		rows, err := measure(filepath.Join(dir, strconv.Itoa(n)), n)
		if err != nil {
			return report, fmt.Errorf("bench: mesh of %d: %w", n, err)
		}
		report.Benchmarks = append(report.Benchmarks, rows...)
	}
	return report, nil
}
