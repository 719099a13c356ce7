package wire

import "time"

// LintReport is the answer of lint: what was looked at, and what is not as it
// should be, the worst first.
type LintReport struct {
	Schema   string        `json:"schema"` // sealmesh.lint/v1
	Time     time.Time     `json:"time"`
	Checked  LintCounts    `json:"checked"`
	Findings []LintFinding `json:"findings"`
	Omitted  int           `json:"omitted"` // findings that did not fit
}

// LintCounts is what a report rests on.
type LintCounts struct {
	Agents    int `json:"agents"`
	Instances int `json:"instances"`
	Lines     int `json:"lines"` // of all grants
	Imports   int `json:"imports"`
	Streams   int `json:"streams"`
	Consumers int `json:"consumers"`
}

// LintFinding is one thing that is not as it should be. Codes are stable.
type LintFinding struct {
	Code     string `json:"code"`
	Severity string `json:"severity"` // error, warning or info
	Agent    string `json:"agent,omitempty"`
	Subject  string `json:"subject,omitempty"` // what is reached
	Line     string `json:"line,omitempty"`    // by which line, stream, consumer or import
	Why      string `json:"why"`
	Remedy   string `json:"remedy"`
}

// Clean reports whether there is nothing but information.
func (r LintReport) Clean() bool {
	for _, f := range r.Findings {
		if f.Severity != "info" {
			return false
		}
	}
	return true
}

// LintSchema is that of LintReport.
const LintSchema = "sealmesh.lint/v1"
