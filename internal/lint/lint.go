package lint

import "fmt"

// Check proves a snapshot. It reads no clock and changes nothing.
func Check(s Snapshot) Report {
	var r Report
	for _, u := range s.Unread {
		f := Finding{
			Code: Unreadable, Severity: Error, Line: u.What, Why: u.Why,
			Remedy: "see the control plane's log; what cannot be read is not proven",
		}
		if !u.Agent.IsZero() {
			f.Agent = u.Agent.String()
		}
		r.add(f)
	}
	for _, a := range s.Agents {
		r.Checked.Agents++
		for _, i := range a.Instances {
			r.Checked.Instances++
			r.Checked.Lines += len(i.Grant.Publish) + len(i.Grant.Subscribe)
			checkGrant(&r, s.Prefix, a, i)
		}
	}
	checkBorder(&r, s)
	checkStreams(&r, s)
	checkConsumers(&r, s)
	checkPlain(&r, s)
	checkPairs(&r, s)
	r.settle()
	return r
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }
