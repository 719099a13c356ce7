// Package bench measures a mesh of its own, in this process: real servers, real
// TLS, real agents. It reports what was seen and judges nothing.
package bench

// Schema is that of a report.
const Schema = "sealmesh.bench/v1"

// Report is one benchmark's outcome.
type Report struct {
	Schema     string `json:"schema"`
	CPUs       int    `json:"cpus"`
	Benchmarks []Row  `json:"benchmarks"`
}

// Row is one thing that was measured. Value is the median.
type Row struct {
	Name         string  `json:"name"`
	Unit         string  `json:"unit"`
	Value        float64 `json:"value"`
	P50          float64 `json:"p50"`
	P99          float64 `json:"p99"`
	Max          float64 `json:"max"`
	Runs         int     `json:"runs"`
	Baseline     float64 `json:"baseline,omitempty"` // the median of BaselineName, in the same run
	BaselineName string  `json:"baseline_name,omitempty"`
	Ratio        float64 `json:"ratio,omitempty"` // of the medians
}
