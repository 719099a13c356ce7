package load

import (
	"fmt"
	"strings"
	"time"
)

// Report is what came of a Run.
type Report struct {
	Took    time.Duration
	Calls   map[string]int64         // that were made, by scope
	Slowest map[string]time.Duration // of them
	Events  map[string]int64         // published, by topic
	Heard   int64                    // of those, by all subscribers together

	Failed  int64 // calls and publications that came to nothing
	Lost    int64 // events that did not come, and calls that nobody worked on
	Doubled int64 // events that came twice, and calls that were worked on twice
	Wrong   []string

	Redelivered int64 // events of a durable subscription that came once more, marked as such
	Behind      int64 // events that came after a later one of the same agent
	Loans       int64 // delegations made and taken back meanwhile

	Rotations    map[string]int64 // by agent
	Certificates map[string]int   // by agent, with the first
	Warnings     map[string]int   // what the agents' logs complained of
	Samples      []Sample
}

// Err says what was lost, doubled or refused, or returns nil.
func (r Report) Err() error {
	if r.Failed+r.Lost+r.Doubled == 0 && len(r.Wrong) == 0 {
		return nil
	}
	return fmt.Errorf("load: %d calls or events failed, %d were lost, %d doubled:\n%s", r.Failed, r.Lost, r.Doubled, strings.Join(r.Wrong, "\n"))
}

// String is the report in a few lines.
func (r Report) String() string {
	var b strings.Builder
	var calls, events, turns, most int64
	for _, n := range r.Calls {
		calls += n
	}
	for _, n := range r.Events {
		events += n
	}
	least := int64(-1)
	for _, n := range r.Rotations {
		turns += n
		most = max(most, n)
		if least < 0 || n < least {
			least = n
		}
	}
	fmt.Fprintf(&b, "%d calls (%.0f/s) %v, %d events (%.0f/s) heard %d times, in %s\n", calls, float64(calls)/r.Took.Seconds(), r.Calls,
		events, float64(events)/r.Took.Seconds(), r.Heard, r.Took.Round(100*time.Millisecond))
	fmt.Fprintf(&b, "%d rotations, %d to %d an agent; certificates %v; %d loans\n", turns, least, most, r.Certificates, r.Loans)
	fmt.Fprintf(&b, "failed %d, lost %d, doubled %d; redelivered %d, out of order %d; slowest %v", r.Failed, r.Lost, r.Doubled, r.Redelivered, r.Behind, r.Slowest)
	if len(r.Warnings) > 0 {
		fmt.Fprintf(&b, "\nlogged: %v", r.Warnings)
	}
	return b.String()
}

// What may grow without being taken for a leak: the runtime and the server work in
// steps, and each nonce of the last six minutes takes the server up to 700 bytes.
const (
	growth      = 1.25
	heapSlack   = 32 // MiB
	threadSlack = 150
	nonceBytes  = 700
)

// Grown says what was more at the end than soon after the beginning, or "". It looks
// at the least of three samples each, since what is under way comes and goes.
func (r Report) Grown() string {
	n := len(r.Samples)
	if n < 8 {
		return ""
	}
	least := func(of []Sample, f func(Sample) uint64) uint64 {
		out := f(of[0])
		for _, s := range of {
			out = min(out, f(s))
		}
		return out
	}
	early, late := r.Samples[1:4], r.Samples[n-4:n-1] // the last is of the end
	heap := func(s Sample) uint64 { return s.HeapMiB - min(s.HeapMiB, s.Stored*nonceBytes>>20) }
	threads := func(s Sample) uint64 { return uint64(s.Goroutines) }
	if a, b := least(early, heap), least(late, heap); float64(b) > growth*float64(a)+heapSlack {
		return fmt.Sprintf("memory without the nonces grew from %d to %d MiB", a, b)
	}
	if a, b := least(early, threads), least(late, threads); float64(b) > growth*float64(a)+threadSlack {
		return fmt.Sprintf("goroutines grew from %d to %d", a, b)
	}
	return ""
}

// Header is the line above those of samples.
func Header() string {
	return fmt.Sprintf("%8s %9s %9s %7s %9s %7s %9s %10s %8s", "after", "calls", "events", "failed", "rotations", "certs", "heap MiB", "goroutines", "nonces")
}

func (s Sample) String() string {
	return fmt.Sprintf("%8s %9d %9d %7d %9d %7d %9d %10d %8d", s.After.Round(100*time.Millisecond), s.Calls, s.Events, s.Failed,
		s.Rotations, s.Certificates, s.HeapMiB, s.Goroutines, s.Stored)
}
