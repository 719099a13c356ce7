package gate

import (
	"bytes"
	"strconv"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// parseBurn reads the stream's answer to the write of a nonce. Only a plain
// acknowledgement by the right stream is a first use; everything that is not
// understood is refused.
func parseBurn(data []byte) error {
	_, err := burnt(data)
	return err
}

// burnt is parseBurn, with the place that the stream gave to a first use.
func burnt(data []byte) (seq uint64, err error) {
	ack, err := ReadStoreAck(data)
	if err != nil {
		return 0, denial.New(denial.ReplayUnavailable, "answer of the replay store does not parse")
	}
	switch {
	case ack.Error.Full(), ack.Error == nil && ack.Duplicate:
		return 0, denial.New(denial.Replayed, "nonce was used before")
	case ack.Error != nil:
		return 0, denial.New(denial.ReplayUnavailable, "replay store: %.120q (%d)", ack.Error.Text, ack.Error.Code)
	case !ack.By(subject.KVStream(ReplayBucket)):
		return 0, denial.New(denial.ReplayUnavailable, "answer is not the replay store's")
	}
	return ack.Seq, nil
}

// sequence holds the store to what it said before. Its numbers only rise, so one
// that is no higher than another that was given before the write began says that
// the store was made anew, or set back to an older state, and has forgotten what
// it had in between. The control plane finds that out, too, and raises the time
// from which replays can be told apart; until a receiver has heard of that, it
// must not take such an answer for a first use.
type sequence struct {
	mu    sync.Mutex
	since time.Time // replay_since under which last was given
	last  uint64
}

// place is where the store was when a write began.
type place struct {
	since time.Time
	last  uint64
}

// begin is called before a write.
func (s *sequence) begin(since time.Time) place {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since.After(s.since) {
		s.since, s.last = since, 0 // what was forgotten by then is refused anyway
	}
	return place{s.since, s.last}
}

// end takes the number that the write was given.
func (s *sequence) end(began place, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= began.last {
		return denial.New(denial.ReplayUnavailable, "the replay store went back from %d to %d", began.last, seq)
	}
	if s.since.Equal(began.since) {
		s.last = max(s.last, seq)
	}
	return nil
}

// firstSeq knows the one form of a yes that the server writes outside of a
// domain. Whatever else comes is looked at by burnt, which knows them all.
func firstSeq(data []byte) (seq uint64, ok bool) {
	digits, ok := bytes.CutPrefix(data, plainAck)
	if !ok {
		return 0, false
	}
	digits, ok = bytes.CutSuffix(digits, []byte("}"))
	if !ok || len(digits) == 0 || len(digits) > 18 || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	return seq, err == nil
}
