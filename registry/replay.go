package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// replayKey is where the control plane keeps what it knows of the store of used
// nonces. No agent can read that bucket, and the feed does not carry it.
const replayKey = "replay"

// ReplayRecord is the store of used nonces as a control plane saw it last. What
// it has less of later it has forgotten. It is not signed: whoever can change it
// can change the store.
type ReplayRecord struct {
	Created int64             `json:"created"` // when its stream was made, Unix nanoseconds
	Last    uint64            `json:"last"`    // number of the newest nonce
	Servers map[string]string `json:"servers"` // that hold it: IDs, new at each start, by name
}

// ReplayRecord reads the record from the leader; nil where there is none, or none
// that can be read. The sequence is for PutReplayRecord.
func (s *Store) ReplayRecord(ctx context.Context) (*ReplayRecord, uint64, error) {
	e, err := s.leaderRead(ctx, JoinsBucket, replayKey)
	if errors.Is(err, errNoEntry) {
		return nil, e.seq, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var r ReplayRecord
	d := json.NewDecoder(bytes.NewReader(e.value))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil || d.More() {
		return nil, e.seq, nil
	}
	return &r, e.seq, nil
}

// PutReplayRecord writes the record over the one with sequence seq, and reports
// false where another replica was faster.
func (s *Store) PutReplayRecord(ctx context.Context, r ReplayRecord, seq uint64) (bool, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return false, fmt.Errorf("registry: %w", err)
	}
	err = s.put(ctx, JoinsBucket, replayKey, b, seq, 0)
	if errors.Is(err, errLost) {
		return false, nil
	}
	return err == nil, err
}

// Ticked reports whether the control plane of this mesh ever ticked, also where
// the tick was deleted since.
func (s *Store) Ticked(ctx context.Context) (bool, error) {
	e, err := s.leaderRead(ctx, AgentsBucket, TickKey)
	if errors.Is(err, errNoEntry) {
		return e.seq != 0 || s.floor(TickKey).Epoch != 0, nil
	}
	return err == nil, err
}
