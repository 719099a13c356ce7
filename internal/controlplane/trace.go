package controlplane

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
)

const (
	// traceRows is how many records are told at a time.
	traceRows = 500
	// traceRights is how many of the rights behind them are read.
	traceRights = 100
)

// records tells what the audit holds of a correlation, a denial or an agent.
func (p *Plane) records(ctx context.Context, q *wire.RecordQuery) (any, error) {
	if q == nil || q.Since.IsZero() || q.Since.After(p.clock()) {
		return nil, denial.New(denial.BadInput, "since when is not said, or has not come yet")
	}
	if len(q.Correlation) > limits.AuditText || len(q.Denial) > limits.AuditText {
		return nil, denial.New(denial.BadInput, "a correlation or denial ID has at most %d characters", limits.AuditText)
	}
	// What was done until now is still in the hands of those who did it for a moment.
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(audit.Linger + audit.Linger/4):
	}
	most := traceRows
	if q.Newest > 0 {
		most = min(most, q.Newest)
	}
	out := wire.RecordList{Schema: wire.TraceSchema, Records: []wire.RecordView{}, Rights: map[string][]agentid.ID{}}
	var list []wire.RecordView
	window, err := p.readAudit(ctx, q.Since, wordsOf(q), func(r reported) {
		if !asked(q, r) {
			return
		}
		if list = append(list, wire.ViewRecord(audit.Entry{Record: r.Record, By: r.by, ByInstance: r.byInstance})); len(list) >= 2*most {
			out.Omitted += len(list) - most
			list = append(list[:0], list[len(list)-most:]...)
		}
	})
	if err != nil {
		return nil, err
	}
	if n := len(list) - most; n > 0 {
		out.Omitted += n
		list = list[n:]
	}
	out.Records, out.Audit = append(out.Records, list...), window
	p.rights(ctx, &out)
	return out, nil
}

// wordsOf is what a batch has in it that may hold such a record: the rarest of what
// is asked for, as its signer wrote it.
func wordsOf(q *wire.RecordQuery) [][]byte {
	word := `"audit":`
	switch {
	case q.Correlation != "":
		word = quoted(q.Correlation)
	case q.Denial != "":
		word = quoted(q.Denial)
	case q.Denied:
		word = `"verdict":` + quoted(string(audit.Refused))
	case !q.Agent.IsZero():
		word = string(quotedID(q.Agent))
	}
	return [][]byte{[]byte(word)}
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a text always encodes
	}
	return string(b)
}

func asked(q *wire.RecordQuery, r reported) bool {
	switch {
	case q.Correlation != "" && r.Correlation != q.Correlation,
		q.Denial != "" && r.Denial != q.Denial,
		!q.Agent.IsZero() && r.Sender != q.Agent && r.Peer != q.Agent,
		q.Denied && r.Verdict != audit.Refused && (r.Kind != audit.Made || r.Verdict != audit.Failed),
		!q.Own && q.Correlation == "" && ofSelf(r):
		return false
	case q.Begun:
		// By its sender's word, or, where that was refused before it was sent by anybody
		// who is known, by the receiver's.
		return r.Parent == "" && (r.Kind == audit.Made || r.Kind == audit.Event && r.by == r.Sender && r.Peer != r.by)
	}
	return true
}

// rights says by whom the rights were lent that the records name.
func (p *Plane) rights(ctx context.Context, out *wire.RecordList) {
	looked := map[string]bool{}
	for _, r := range out.Records {
		if r.Chain == "" || looked[r.Chain] || len(looked) == traceRights {
			continue
		}
		looked[r.Chain] = true
		c, err := p.store.Chain(ctx, r.Chain)
		if err != nil {
			continue // it is a root token's, or is gone
		}
		for _, h := range c.Hops() {
			out.Rights[r.Chain] = append(out.Rights[r.Chain], h.To)
		}
	}
}
