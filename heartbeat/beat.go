package heartbeat

import (
	"bytes"
	"encoding/json"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// State is what a session of an instance says about itself.
type State string

// The states. A beat with any other is malformed.
const (
	Up      State = "up"
	Leaving State = "leaving"
)

// maxSequence is the largest integer that every JSON decoder reads exactly, so
// that clients in other languages cannot see two sequences as one.
const maxSequence = 1<<53 - 1

// Beat is the payload of one heartbeat. It proves nothing by itself: it counts
// inside a verified envelope of the instance that it names.
type Beat struct {
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	Session  Session          `json:"session"`
	Epoch    string           `json:"epoch"`    // as in the envelope, "3.1"
	Sequence uint64           `json:"sequence"` // from 1, rising within the session
	State    State            `json:"state"`
	InFlight uint32           `json:"in_flight"` // calls being handled
	Client   string           `json:"client"`    // client version, printable ASCII
}

// Encode returns the one valid encoding of b. The error is a refusal with
// denial.BadInput.
func (b Beat) Encode() ([]byte, error) {
	if _, err := b.check(); err != nil {
		return nil, err
	}
	return b.marshal()
}

// Decode reads a beat. It takes only what Encode gives: no unknown, missing or
// doubled member, no other order, no white space. The error is a refusal with
// denial.TooLarge or denial.BadInput.
func Decode(data []byte) (Beat, error) {
	if len(data) > limits.Beat {
		return Beat{}, denial.New(denial.TooLarge, "beat is longer than %d bytes", limits.Beat)
	}
	var b Beat
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return Beat{}, denial.New(denial.BadInput, "beat does not parse: %v", err)
	}
	if _, err := b.check(); err != nil {
		return Beat{}, err
	}
	again, err := b.marshal()
	if err != nil {
		return Beat{}, denial.New(denial.BadInput, "beat does not encode: %v", err)
	}
	if !bytes.Equal(again, data) {
		return Beat{}, denial.New(denial.BadInput, "beat is not in its one valid encoding")
	}
	return b, nil
}

func (b Beat) marshal() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func (b Beat) check() (envelope.Epoch, error) {
	switch {
	case b.Agent.IsZero() || b.Instance.IsZero():
		return envelope.Epoch{}, denial.New(denial.BadInput, "beat names no agent or no instance")
	case b.Session.IsZero():
		return envelope.Epoch{}, denial.New(denial.BadInput, "beat names no session")
	case b.Sequence == 0 || b.Sequence > maxSequence:
		return envelope.Epoch{}, denial.New(denial.BadInput, "sequence of a beat must lie between 1 and 2^53-1")
	case b.State != Up && b.State != Leaving:
		return envelope.Epoch{}, denial.New(denial.BadInput, "state of a beat is %.20q", string(b.State))
	case len(b.Client) > limits.ClientVersion:
		return envelope.Epoch{}, denial.New(denial.BadInput, "client version is longer than %d bytes", limits.ClientVersion)
	}
	// The version is shown on operators' terminals, so no control characters.
	for i := range len(b.Client) {
		if c := b.Client[i]; c < ' ' || c > '~' {
			return envelope.Epoch{}, denial.New(denial.BadInput, "client version has a character outside printable ASCII")
		}
	}
	return parseEpoch(b.Epoch)
}

func parseEpoch(s string) (envelope.Epoch, error) {
	e, err := envelope.ParseEpoch(s)
	if err != nil {
		return envelope.Epoch{}, denial.New(denial.BadInput, "%s", denial.Detail(err))
	}
	return e, nil
}
