package audit_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
)

func instanceOf(t *testing.T, id string) agentid.Instance {
	t.Helper()
	i, err := agentid.ParseInstance((id + "77777777")[:8])
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// sides are the records that caller and handler write of a call.
func sides(t *testing.T, from, to, nonce, parent string, at time.Time, took time.Duration) (made, taken audit.Entry) {
	t.Helper()
	r := audit.Record{
		Time: at.Add(took), Duration: took, Verdict: audit.Accepted, Correlation: "c", Nonce: nonce, Parent: parent,
		Sender: agentid.Require(from), Instance: instanceOf(t, from), Peer: agentid.Require(to), Scope: "do:work", Payload: "p",
	}
	made = audit.Entry{Record: r, By: r.Sender, ByInstance: r.Instance}
	made.Kind = audit.Made
	taken = audit.Entry{Record: r, By: r.Peer, ByInstance: instanceOf(t, to)}
	taken.Kind = audit.Call
	return made, taken
}

func draw(steps []*audit.Step, depth int) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%s%s %s%v\n", strings.Repeat(" ", depth), s.Nonce, s.Outcome().Verdict, s.Gaps)
		b.WriteString(draw(s.Steps, depth+1))
	}
	return b.String()
}

// The tree is made by who named whom as parent, in whichever order the records come,
// and however wrong the clocks of the hosts are.
func TestTree(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var list []audit.Entry
	both := func(from, to, nonce, parent string, at time.Time) {
		made, taken := sides(t, from, to, nonce, parent, at, time.Second)
		taken.Time = taken.Time.Add(-time.Hour) // its clock is slow
		list = append(list, made, taken)
	}
	both("a", "b", "n1", "", now)
	both("b", "c", "n2", "n1", now.Add(-time.Hour))
	both("b", "d", "n3", "n1", now.Add(-time.Minute))
	both("c", "d", "n4", "n2", now.Add(5*time.Hour))
	const want = "n1 accepted[]\n n2 accepted[]\n  n4 accepted[]\n n3 accepted[]\n"
	for range 20 {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		roots, others := audit.Tree(list)
		if got := draw(roots, 0); got != want || len(others) != 0 {
			t.Fatalf("got\n%sand %d others, want\n%s", got, len(others), want)
		}
	}
}

// Who says nothing, or something else than the other side, is seen.
func TestGaps(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		change func(made, taken *audit.Entry) []audit.Entry
		want   []audit.Gap
	}{
		"both agree":            {func(m, k *audit.Entry) []audit.Entry { return []audit.Entry{*m, *k} }, nil},
		"handler is silent":     {func(m, _ *audit.Entry) []audit.Entry { return []audit.Entry{*m} }, []audit.Gap{audit.MissingReceipt}},
		"caller is silent":      {func(_, k *audit.Entry) []audit.Entry { return []audit.Entry{*k} }, []audit.Gap{audit.MissingRequest}},
		"nobody answered":       {func(m, _ *audit.Entry) []audit.Entry { m.Verdict = audit.Failed; return []audit.Entry{*m} }, nil},
		"another payload":       {func(m, k *audit.Entry) []audit.Entry { k.Payload = "q"; return []audit.Entry{*m, *k} }, []audit.Gap{audit.Mismatch}},
		"another scope":         {func(m, k *audit.Entry) []audit.Entry { k.Scope = "do:more"; return []audit.Entry{*m, *k} }, []audit.Gap{audit.Mismatch}},
		"another parent":        {func(m, k *audit.Entry) []audit.Entry { k.Parent = "x"; return []audit.Entry{*m, *k} }, []audit.Gap{audit.Mismatch}},
		"sealed for the caller": {func(m, k *audit.Entry) []audit.Entry { m.Payload = ""; return []audit.Entry{*m, *k} }, nil},
		"somebody else has it":  {func(m, k *audit.Entry) []audit.Entry { k.By = agentid.Require("z"); return []audit.Entry{*m, *k} }, []audit.Gap{audit.MissingReceipt}},
		"a second word comes":   {func(m, k *audit.Entry) []audit.Entry { n := *m; n.Payload = "q"; return []audit.Entry{*m, n, *k} }, nil},
		"refused by the handler": {func(m, k *audit.Entry) []audit.Entry {
			m.Verdict, k.Verdict, k.Payload = audit.Failed, audit.Refused, "q"
			return []audit.Entry{*m, *k}
		}, nil},
	} {
		made, taken := sides(t, "a", "b", "n", "", now, time.Second)
		roots, _ := audit.Tree(c.change(&made, &taken))
		if len(roots) != 1 || fmt.Sprint(roots[0].Gaps) != fmt.Sprint(c.want) {
			t.Errorf("%s: got\n%swant %v", name, draw(roots, 0), c.want)
		}
	}
}

// Records that name each other as parents, which a liar may write, make no endless
// tree and hide nothing.
func TestCircle(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a, _ := sides(t, "a", "b", "n1", "n3", now, time.Second)
	b, _ := sides(t, "b", "c", "n2", "n1", now, time.Second)
	c, _ := sides(t, "c", "a", "n3", "n2", now, time.Second)
	own, _ := sides(t, "d", "a", "n4", "n4", now, time.Second)
	roots, _ := audit.Tree([]audit.Entry{a, b, c, own})
	if got := strings.Count(draw(roots, 0), "\n"); got != 4 {
		t.Errorf("got\n%swant four messages", draw(roots, 0))
	}
}

// An event has as many receivers as there are, and what nobody signed for stands
// apart.
func TestEventsAndOthers(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	made, taken := sides(t, "a", "b", "n", "", now, 0)
	sent := made
	sent.Kind, sent.Verdict, sent.Peer = audit.Event, audit.Sent, agentid.ID{}
	one, two := taken, taken
	one.Kind, two.Kind = audit.Event, audit.Event
	two.By, two.Peer = agentid.Require("c"), agentid.Require("c")
	two.Verdict, two.Reason = audit.Refused, denial.Stale
	junk := taken
	junk.Nonce, junk.Verdict, junk.Reason = "", audit.Refused, denial.BadSignature
	roots, others := audit.Tree([]audit.Entry{one, two, sent, junk})
	if len(roots) != 1 || len(roots[0].Received) != 2 || roots[0].Kind != audit.Event || len(roots[0].Gaps) != 0 {
		t.Errorf("got\n%s", draw(roots, 0))
	}
	if got := roots[0].Outcome(); got.Reason != denial.Stale {
		t.Errorf("outcome: got %+v, want that one refused it", got)
	}
	if len(others) != 1 || others[0].Reason != denial.BadSignature {
		t.Errorf("others: got %v", others)
	}
}
