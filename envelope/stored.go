package envelope

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// CheckStored is CheckTime for a message that came out of a stream, which took it
// at stored: the stream's time stands in for the receiver's clock, and how long
// the message may lie there is bounded by maxAge, with limits.Ahead on top for
// clocks that differ. It also checks that the message carries Nats-Msg-Id, which
// Parse has found to be the nonce: without it the stream would have taken any
// number of copies. A budget (dl) is a caller's and counts for nothing here.
// Refusals: BadEnvelope, Stale, Future.
func (u *Unverified) CheckStored(stored, now time.Time, w Window, maxAge time.Duration) error {
	if len(u.msg.Header[HeaderMsgID]) != 1 {
		return malformed("a stored message without %s", HeaderMsgID)
	}
	if err := w.check(u.fields.Time, stored); err != nil {
		return err
	}
	switch age := now.Sub(stored); {
	case maxAge <= 0:
		return denial.New(denial.Stale, "no age is allowed")
	case age > maxAge+limits.Ahead:
		return denial.New(denial.Stale, "stored %v ago, of %v", age, maxAge)
	case age < -w.ahead:
		return denial.New(denial.Future, "stored %v ahead, of %v", stored.Sub(now), w.ahead)
	}
	return nil
}

// StoredMemoryConfig configures a StoredMemory.
type StoredMemoryConfig struct {
	Window Window // that of the receiver; required
	Nonces int    // how many it holds; 0: limits.StoredNonces
}

// StoredMemory remembers the nonces of what one consumer took out of a stream
// and acknowledged, each with its sequence there. The same sequence may come
// again, which is a redelivery; under another sequence it is a replay.
//
// The stream itself refuses a copy by its Nats-Msg-Id, for twice the window, and
// a copy that it takes later than that is stale; this memory is for a stream that
// forgot. A copy of a message can be stored no later than the window allows after
// its ts, and a consumer brings messages in the order in which they were stored:
// so a nonce is dropped once what comes was stored after that. Where the memory is
// full, those go first that would go first anyway: to refuse messages in place of
// that would hold up the consumer for ever, since the stream's time moves on by
// what is taken from it.
//
// It knows what this process acknowledged, no more: copies that are taken by two
// instances of one agent, or one of them before a restart, are left to the
// stream. It is safe for concurrent use.
type StoredMemory struct {
	window Window
	most   int

	mu      sync.Mutex
	latest  int64 // the stream's time, Unix milliseconds
	buckets []storedBucket
	count   int
}

type storedBucket struct {
	end  int64 // no expiry in it is later
	used map[storedKey]uint64
}

// storedKey: a nonce counts for its sender.
type storedKey struct {
	from  agentid.ID
	nonce nonce
}

// NewStoredMemory returns an empty memory.
func NewStoredMemory(c StoredMemoryConfig) (*StoredMemory, error) {
	if c.Nonces == 0 {
		c.Nonces = limits.StoredNonces
	}
	if c.Window == (Window{}) || c.Nonces < 0 {
		return nil, fmt.Errorf("envelope: memory of %d stored nonces without a window", c.Nonces)
	}
	return &StoredMemory{window: c.Window, most: c.Nonces, latest: math.MinInt64}, nil
}

// Len returns how many nonces are held.
func (m *StoredMemory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count
}

// Seen refuses what Use would refuse. It notes the stream's time, which no sender
// can choose, and nothing that is the sender's. Refusals: Replayed.
func (m *StoredMemory) Seen(u *Unverified, sequence uint64, stored time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.seen(u, sequence, stored)
	return err
}

// Use notes that a message was worked on and is about to be acknowledged. Using
// it again under the same sequence is no error. Refusals: those of Seen;
// BadSignature for what nobody verified.
func (m *StoredMemory) Use(v *Verified, sequence uint64, stored time.Time) error {
	if v.IsZero() {
		return denial.New(denial.BadSignature, "not a verified message")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known, err := m.seen(v.u, sequence, stored)
	if err != nil || known {
		return err
	}
	key := storedKey{own(v.u.fields.From), v.u.nonce}
	expiry := m.window.expiry(v.u.fields.Time)
	end := expiry - expiry%bucketSpan + bucketSpan
	m.makeRoom()
	m.count++
	for _, b := range m.buckets {
		if b.end == end {
			b.used[key] = sequence
			return nil
		}
	}
	m.buckets = append(m.buckets, storedBucket{end, map[storedKey]uint64{key: sequence}})
	return nil
}

// seen is called with the lock held.
func (m *StoredMemory) seen(u *Unverified, sequence uint64, stored time.Time) (known bool, err error) {
	m.latest = max(m.latest, stored.UnixMilli())
	m.buckets = slices.DeleteFunc(m.buckets, func(b storedBucket) bool {
		if b.end > m.latest {
			return false
		}
		m.count -= len(b.used)
		return true
	})
	key := storedKey{u.fields.From, u.nonce}
	for _, b := range m.buckets {
		if before, ok := b.used[key]; ok && before != sequence {
			return true, denial.New(denial.Replayed, "nonce %s of %s was used by message %d of the stream", u.fields.Nonce, u.fields.From, before)
		} else if ok {
			return true, nil
		}
	}
	return false, nil
}

// makeRoom is called with the lock held.
func (m *StoredMemory) makeRoom() {
	for m.count >= m.most {
		first := 0
		for i, b := range m.buckets {
			if b.end < m.buckets[first].end {
				first = i
			}
		}
		m.count -= len(m.buckets[first].used)
		m.buckets = slices.Delete(m.buckets, first, first+1)
	}
}
