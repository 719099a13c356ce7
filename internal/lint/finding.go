package lint

import (
	"cmp"
	"slices"
)

// Severity says how bad a finding is.
type Severity string

// The severities. An error is something that somebody reaches and must not; a
// warning is a lock that is missing where another one holds; what is only worth
// knowing is info.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

func (s Severity) rank() int { return slices.Index([]Severity{Error, Warning, Info}, s) }

// Code names a kind of finding. Codes are stable.
type Code string

// The codes.
const (
	// Lines of grants.
	LineForeign   Code = "line-foreign"   // publishes in the name of another
	LineControl   Code = "line-control"   // publishes where the control plane, JetStream or the server acts
	LineBeyond    Code = "line-beyond"    // publishes in its own name what no right covers
	LineOutside   Code = "line-outside"   // leaves the mesh without a plain right
	LineListens   Code = "line-listens"   // receives what is for others
	LineMalformed Code = "line-malformed" // is not what it looks like to the server
	GrantOpen     Code = "grant-open"     // permits more than its lines, or answers anywhere
	Unreadable    Code = "unreadable"     // could not be checked

	// The border between the accounts.
	BorderOpen      Code = "border-open"      // something crosses that must not
	BorderPublic    Code = "border-public"    // an export for whoever asks
	BorderJetStream Code = "border-jetstream" // agents have a JetStream API to aim at

	// Streams.
	StreamMissing      Code = "stream-missing"
	StreamUnknown      Code = "stream-unknown"
	StreamSubjects     Code = "stream-subjects"     // stores something else than it must
	StreamReached      Code = "stream-reached"      // agents write what only the control plane may
	StreamAcknowledges Code = "stream-acknowledges" // the server answers in CTRL where an agent says
	StreamForgets      Code = "stream-forgets"      // what is stored can be taken away or written over
	StreamSpeaks       Code = "stream-speaks"       // the server sends on what is stored

	// Consumers.
	ConsumerPush   Code = "consumer-push"   // the server sends what is stored where it was told
	ConsumerWide   Code = "consumer-wide"   // hands out more than its agent may receive
	ConsumerOrphan Code = "consumer-orphan" // belongs to nobody
	ConsumerAck    Code = "consumer-ack"    // forgets what was not taken

	// What agents are for.
	PlainCaptured Code = "plain-captured" // a plain subject that the mesh acts on
	PlainMeets    Code = "plain-meets"    // agents that speak outside the mesh
	Unhandled     Code = "unhandled"      // a call right that nobody answers
	Uncalled      Code = "uncalled"       // a handle right that nobody may call
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Code     Code
	Severity Severity
	Agent    string // "reader", "reader/7f3c2k9q", or nobody
	Subject  string // what is reached: a subject or a set of them
	Line     string // by which line, stream, consumer or import
	Why      string
	Remedy   string
}

// Checked counts what a report rests on.
type Checked struct {
	Agents, Instances, Lines    int
	Imports, Streams, Consumers int
}

// Report is the result of a check. Findings are sorted, the worst first.
type Report struct {
	Checked  Checked
	Findings []Finding
}

// Clean reports whether nothing but information was found.
func (r Report) Clean() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity != Info })
}

func (r *Report) add(f Finding) { r.Findings = append(r.Findings, f) }

// settle sorts the findings; of those that say the same one is kept.
func (r *Report) settle() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Severity.rank(), b.Severity.rank()), cmp.Compare(a.Code, b.Code),
			cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Subject, b.Subject))
	})
	r.Findings = slices.Compact(r.Findings)
}
