package gate

import (
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// What one sender burns is counted for as long as the shared store remembers it,
// in steps of quotaStep.
const (
	quotaStep  = 30 * time.Second
	quotaSteps = int64((limits.Window+limits.Ahead+30*time.Second)/quotaStep) + 1
)

// quota bounds what one sender can have this receiver write into the shared store,
// which everybody's calls need. The store itself knows no senders: nats-server
// bounds a stream or a subject, and where a flood reached the bound of the stream,
// all calls of the mesh would be refused.
type quota struct {
	most int

	mu      sync.Mutex
	senders map[agentid.ID]*burns
	swept   int64
}

// burns counts by step; the steps of a time that is over are used again.
type burns [quotaSteps]struct {
	step  int64
	count int
}

func newQuota(most int) *quota {
	if most == 0 {
		most = limits.BurnsPerSender
	}
	return &quota{most: most, senders: map[agentid.ID]*burns{}}
}

// take counts one message of a sender, or refuses it.
func (q *quota) take(id agentid.ID, now time.Time) error {
	step := now.UnixMilli() / quotaStep.Milliseconds()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sweep(step)
	b := q.senders[id]
	if b == nil {
		b = new(burns)
		q.senders[own(id)] = b
	}
	if n := b.sum(step); n >= q.most {
		return denial.New(denial.QuotaExceeded, "%q made %d calls within %s", id, n, time.Duration(quotaSteps)*quotaStep)
	}
	at := &b[step%quotaSteps]
	if at.step < step {
		at.step, at.count = step, 0
	}
	at.count++ // after a clock was set back, too, it stands where it ends last
	return nil
}

// sum counts what is remembered; what lies ahead is of before a clock was set
// back.
func (b *burns) sum(step int64) int {
	n := 0
	for i := range b {
		if b[i].step > step-quotaSteps {
			n += b[i].count
		}
	}
	return n
}

// sweep forgets who has burnt nothing lately.
func (q *quota) sweep(step int64) {
	if q.swept == step {
		return
	}
	q.swept = step
	for id, b := range q.senders {
		if b.sum(step) == 0 {
			delete(q.senders, id)
		}
	}
}
