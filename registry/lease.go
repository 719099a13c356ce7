package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Lease is work that one replica of the control plane does at a time, and how far
// it is. It has no end of its own: whoever sees the same sequence for longer than
// its holder would have left it takes it over. It is not signed; whoever can change
// it can delete the registry.
type Lease struct {
	Holder string          `json:"holder"` // empty: nobody
	Beat   uint64          `json:"beat"`   // rises, so that the sequence does
	Note   json.RawMessage `json:"note,omitempty"`
}

// leaseKey stands where agents cannot read and what the feed does not carry.
func leaseKey(name string) string { return "lease." + name }

// Lease reads a lease from the leader; nil where there is none, or none that can be
// read. The sequence is for PutLease.
func (s *Store) Lease(ctx context.Context, name string) (*Lease, uint64, error) {
	e, err := s.leaderRead(ctx, JoinsBucket, leaseKey(name))
	if errors.Is(err, errNoEntry) {
		return nil, e.seq, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var l Lease
	d := json.NewDecoder(bytes.NewReader(e.value))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil || d.More() {
		return nil, e.seq, nil
	}
	return &l, e.seq, nil
}

// PutLease writes a lease over the one with sequence seq, and reports false where
// another replica was faster.
func (s *Store) PutLease(ctx context.Context, name string, l Lease, seq uint64) (bool, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return false, fmt.Errorf("registry: %w", err)
	}
	err = s.put(ctx, JoinsBucket, leaseKey(name), b, seq, 0)
	if errors.Is(err, errLost) {
		return false, nil
	}
	return err == nil, err
}
