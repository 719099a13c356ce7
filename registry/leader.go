package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const (
	// requestTimeout bounds one request of a caller who set no deadline.
	requestTimeout = 5 * time.Second
	// listWorkers is how many reads of one listing are under way at a time.
	listWorkers = 32
)

// entry is one value of a bucket as its leader has it.
type entry struct {
	value []byte
	seq   uint64
}

// errNoEntry: the key has no value. The sequence beside it is that of a marker,
// or zero where there is none.
var errNoEntry = errors.New("registry: no such key")

// leaderRead reads a key from the stream's leader. A direct get may be answered
// by a replica that is behind, and a decision taken on that could let a revoked
// agent in.
func (s *Store) leaderRead(ctx context.Context, bucket, key string) (entry, error) {
	data, err := s.request(ctx, subject.LeaderGet(bucket), LeaderReadBody(bucket, key))
	if err != nil {
		return entry{}, fmt.Errorf("registry: reading %s: %w", key, err)
	}
	return parseMsgGet(data)
}

func (s *Store) request(ctx context.Context, subj string, body []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	m, err := s.cfg.Conn.RequestWithContext(ctx, subj, body)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

// apiError is how JetStream refuses a request.
type apiError struct {
	ErrCode int    `json:"err_code"`
	Text    string `json:"description"`
}

// parseMsgGet reads the answer of a leader read. Both the control plane and
// clients use it (ParseLeaderRead).
func parseMsgGet(data []byte) (entry, error) {
	var r struct {
		Error   *apiError `json:"error"`
		Message *struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return entry{}, fmt.Errorf("registry: leader read: %w", err)
	}
	const noMessage = 10037
	switch {
	case r.Error != nil && r.Error.ErrCode == noMessage:
		return entry{}, errNoEntry
	case r.Error != nil:
		return entry{}, fmt.Errorf("registry: leader read: %q (%d)", r.Error.Text, r.Error.ErrCode)
	case r.Message == nil || r.Message.Seq == 0:
		return entry{}, errors.New("registry: leader read: no message in the answer")
	case len(r.Message.Data) == 0:
		// A delete marker or a TTL marker: no value.
		return entry{seq: r.Message.Seq}, errNoEntry
	}
	return entry{r.Message.Data, r.Message.Seq}, nil
}

// ParseLeaderRead returns the value in a leader's answer, or denial.NotFound.
func ParseLeaderRead(data []byte) (string, error) {
	e, err := parseMsgGet(data)
	if errors.Is(err, errNoEntry) {
		return "", denial.NotFound
	}
	return string(e.value), err
}

// LeaderReadBody is the request body of a leader read of one key.
func LeaderReadBody(bucket, key string) []byte {
	b, err := json.Marshal(struct {
		Last string `json:"last_by_subj"`
	}{subject.KV(bucket, key)})
	if err != nil {
		return nil // a struct of one string always encodes
	}
	return b
}

// keys lists the keys of a bucket that match filter, in order, as the leader has
// them; keys that hold a marker are among them.
func (s *Store) keys(ctx context.Context, bucket, filter string) ([]string, error) {
	prefix := subject.KV(bucket, "")
	found := map[string]bool{}
	for offset := 0; ; {
		body, err := json.Marshal(struct {
			Filter string `json:"subjects_filter"`
			Offset int    `json:"offset,omitempty"`
		}{prefix + filter, offset})
		if err != nil {
			return nil, fmt.Errorf("registry: listing %s: %w", filter, err)
		}
		data, err := s.request(ctx, "$JS.API.STREAM.INFO."+subject.KVStream(bucket), body)
		if err != nil {
			return nil, fmt.Errorf("registry: listing %s: %w", filter, err)
		}
		var r struct {
			Error *apiError `json:"error"`
			Total int       `json:"total"`
			State *struct {
				Subjects map[string]uint64 `json:"subjects"`
			} `json:"state"`
		}
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("registry: listing %s: %w", filter, err)
		}
		if r.Error != nil {
			return nil, fmt.Errorf("registry: listing %s: %q (%d)", filter, r.Error.Text, r.Error.ErrCode)
		}
		if r.State == nil {
			return nil, fmt.Errorf("registry: listing %s: no state in the answer", filter)
		}
		for subj := range r.State.Subjects {
			if key, ok := strings.CutPrefix(subj, prefix); ok {
				found[key] = true
			}
		}
		offset += len(r.State.Subjects)
		if len(r.State.Subjects) == 0 || offset >= r.Total {
			return slices.Sorted(maps.Keys(found)), nil
		}
	}
}

// each calls f for the value of every key that matches filter, in the order of
// the keys. Keys and values come from the leader: whatever was written before
// the call is seen. A watch would be answered by a consumer that may sit on a
// replica that is behind, and a listing that misses an instance or a session
// leaves it uncut.
func (s *Store) each(ctx context.Context, bucket, filter string, f func(key string, value []byte) error) error {
	keys, err := s.keys(ctx, bucket, filter)
	if err != nil {
		return err
	}
	return s.eachOf(ctx, bucket, keys, f)
}

// eachOf is each for keys that the caller knows.
func (s *Store) eachOf(ctx context.Context, bucket string, keys []string, f func(key string, value []byte) error) error {
	values, errs := make([][]byte, len(keys)), make([]error, len(keys))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(listWorkers, len(keys)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(keys); i = int(next.Add(1)) - 1 {
				e, err := s.leaderRead(ctx, bucket, keys[i])
				if !errors.Is(err, errNoEntry) {
					values[i], errs[i] = e.value, err
				}
				if errs[i] != nil {
					next.Store(int64(len(keys))) // one failure ends the listing
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, key := range keys {
		if values[i] == nil {
			continue // ended or deleted
		}
		if err := f(key, values[i]); err != nil {
			return err
		}
	}
	return nil
}
