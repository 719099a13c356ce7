package audit

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/internal/limits"
)

// Spool gathers records into batches for a goroutine that sends them. It is
// bounded in bytes: what comes while too much waits is left out and counted. It is
// safe for concurrent use, and adding never waits for the network. The zero Spool
// is not usable.
type Spool struct {
	sending sync.Mutex // held while batches are sent, so that they stay in order

	mu      sync.Mutex
	open    batch         // being filled
	full    []batch       // waiting to be sent, in order
	run     string        // of this process
	number  uint64        // of the last batch that was taken
	missing uint64        // records that were left out
	ready   chan struct{} // has something when a whole batch waits
}

type batch struct {
	text []byte // lines of records
	n    int
}

// NewSpool returns an empty spool.
func NewSpool() *Spool { return &Spool{run: rand.Text()[:runLen], ready: make(chan struct{}, 1)} }

// runLen is enough to tell the processes of one instance apart.
const runLen = 12

// Waiting returns how many records wait to be sent, and how many were left out since
// the last batch because too many waited.
func (s *Spool) Waiting() (records int, missing uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	records = s.open.n
	for _, b := range s.full {
		records += b.n
	}
	return records, s.missing
}

// Add puts a record in line.
func (s *Spool) Add(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.full) >= limits.AuditBacklog/limits.AuditBatch {
		s.missing++
		return
	}
	before := len(s.open.text)
	text, err := AppendRecord(s.open.text, r)
	if err != nil {
		s.missing++
		return
	}
	if len(text) > limits.AuditBatch {
		next := append([]byte(nil), text[before:]...)
		s.open.text = text[:before]
		s.close()
		s.open = batch{next, 1}
		return
	}
	s.open = batch{text, s.open.n + 1}
	if s.open.n == limits.AuditRecords {
		s.close()
	}
}

// close is called with the lock held.
func (s *Spool) close() {
	s.full = append(s.full, s.open)
	s.open = batch{text: make([]byte, 0, cap(s.open.text))}
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// take returns the next batch, ready to be signed, and how many records are in it;
// nil where there is none. all says that one that is not full will do.
func (s *Spool) take(all bool) (data []byte, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b batch
	switch {
	case len(s.full) > 0:
		b = s.full[0]
		s.full = s.full[1:]
	case all && (s.open.n > 0 || s.missing > 0):
		b = s.open
		s.open = batch{}
	default:
		return nil, 0
	}
	s.number++
	data = append(AppendHead(make([]byte, 0, headMost+len(b.text)), s.run, s.number, s.missing), b.text...)
	s.missing = 0
	return data, b.n
}

// headMost is about how long the first line of a batch is.
const headMost = 96

// lost says that a batch that was taken did not get away.
func (s *Spool) lost(data []byte, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number-- // the next one says what is missing, and nobody has to guess
	s.missing += uint64(n)
	if b, err := Decode(data); err == nil {
		s.missing += b.Missing
	}
}

// Linger is how long records wait for others before they are sent.
const Linger = time.Second

// Run sends batches until done is closed: full ones at once, others every Linger.
// While up says no they wait. What is left then is Flush's.
func (s *Spool) Run(done <-chan struct{}, up func() bool, send func([]byte) error) {
	tick := time.NewTicker(Linger)
	defer tick.Stop()
	for {
		all := false
		select {
		case <-done:
			return
		case <-s.ready:
		case <-tick.C:
			all = true
		}
		if up() {
			s.send(all, send)
		}
	}
}

// Flush sends what is there.
func (s *Spool) Flush(send func([]byte) error) { s.send(true, send) }

func (s *Spool) send(all bool, send func([]byte) error) {
	s.sending.Lock()
	defer s.sending.Unlock()
	for {
		data, n := s.take(all)
		if data == nil {
			return
		}
		if err := send(data); err != nil {
			s.lost(data, n)
			return
		}
	}
}
