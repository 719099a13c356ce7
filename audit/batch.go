package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Batch is what one instance sends to the audit at a time: JSON, one document a
// line, the head first and then the records. Whoever signed the message that
// carries it says so, and nobody else.
//
// A reader passes over fields that it does not know, so that an older one reads
// what a newer one wrote. That is no risk: nothing is decided by a record.
type Batch struct {
	// Run names the process, and Number counts its batches from 1, so that one that
	// is not there is missed.
	Run    string
	Number uint64
	// Missing is how many records were left out since the last batch because too
	// many waited.
	Missing uint64
	Records []Record
}

// Schema is that of a batch.
const Schema = "sealmesh.audit/v1"

// head is the first line of a batch.
type head struct {
	Schema  string `json:"schema"`
	Run     string `json:"run"`
	Number  uint64 `json:"batch"`
	Missing uint64 `json:"missing,omitempty"`
}

// line is one record in a batch. Its names are those of the log.
type line struct {
	At          int64            `json:"at"` // Unix milliseconds
	Kind        Kind             `json:"audit"`
	Verdict     Verdict          `json:"verdict"`
	Reason      denial.Reason    `json:"reason,omitempty"`
	Detail      string           `json:"detail,omitempty"`
	Denial      string           `json:"denial,omitempty"`
	Correlation string           `json:"correlation,omitempty"`
	Nonce       string           `json:"nonce,omitempty"`
	Parent      string           `json:"parent,omitempty"`
	Sender      agentid.ID       `json:"sender,omitzero"`
	Instance    agentid.Instance `json:"instance,omitzero"`
	Peer        agentid.ID       `json:"peer,omitzero"`
	Scope       string           `json:"scope,omitempty"`
	Subject     string           `json:"subject,omitempty"`
	Chain       string           `json:"chain,omitempty"`
	Payload     string           `json:"payload,omitempty"`
	Size        int              `json:"size,omitempty"`
	Micros      int64            `json:"us,omitempty"`
	Host        string           `json:"host,omitempty"`
	Key         string           `json:"nkey,omitempty"`
	Server      string           `json:"server,omitempty"`
	Epoch       string           `json:"epoch,omitempty"`
	Suppressed  uint64           `json:"suppressed,omitempty"`
}

// AppendHead appends the first line of a batch.
func AppendHead(b []byte, run string, number, missing uint64) []byte {
	text, err := json.Marshal(head{Schema, run, number, missing})
	if err != nil {
		panic(err) // texts and numbers always encode
	}
	return append(append(b, text...), '\n')
}

// AppendRecord appends one record as a line. What other agents chose is cut to
// limits.AuditText. The subject is left out of what was accepted, and the detail of
// what failed: the one follows from the rest, and the other may be an
// application's own words, which may quote a payload.
func AppendRecord(b []byte, r Record) ([]byte, error) {
	l := line{
		At: r.Time.UnixMilli(), Kind: r.Kind, Verdict: r.Verdict, Reason: denial.Reason(clip(string(r.Reason))), Denial: r.Denial,
		Correlation: clip(r.Correlation), Nonce: clip(r.Nonce), Parent: clip(r.Parent),
		Sender: r.Sender, Instance: r.Instance, Peer: r.Peer, Scope: clip(r.Scope), Chain: clip(r.Chain),
		Payload: r.Payload, Size: r.Size, Micros: r.Duration.Microseconds(),
		Host: clip(r.Host), Key: clip(r.Key), Server: clip(r.Server), Epoch: clip(r.Epoch), Suppressed: r.Suppressed,
	}
	if r.Verdict == Refused {
		l.Subject = clip(r.Subject)
	}
	if r.Verdict != Failed {
		l.Detail = clip(r.Detail)
	}
	text, err := json.Marshal(l)
	if err == nil && len(text) >= limits.AuditRecord {
		// What strangers chose of it, in characters that take six bytes each, must
		// not keep the record out.
		l.Detail, l.Subject = "", ""
		text, err = json.Marshal(l)
	}
	if err != nil {
		return b, fmt.Errorf("audit: record: %w", err)
	}
	if len(text) >= limits.AuditRecord {
		return b, denial.New(denial.TooLarge, "record of %d bytes, of %d", len(text)+1, limits.AuditRecord)
	}
	return append(append(b, text...), '\n'), nil
}

// clip keeps a text as short as a record allows, and valid.
func clip(s string) string {
	if len(s) <= limits.AuditText {
		return s
	}
	s = s[:limits.AuditText]
	for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s[:max(0, len(s)-1)] // its last rune may have lost its end
}

// Decode reads a batch. One with a line that is no record is refused as a whole:
// BadInput, TooLarge.
func Decode(data []byte) (Batch, error) {
	if len(data) > limits.AuditMessage {
		return Batch{}, denial.New(denial.TooLarge, "batch of %d bytes", len(data))
	}
	first, rest, ok := bytes.Cut(data, []byte("\n"))
	var h head
	if !ok || json.Unmarshal(first, &h) != nil || h.Schema != Schema || h.Number == 0 || len(h.Run) > limits.AuditText {
		return Batch{}, denial.New(denial.BadInput, "not a batch of %s", Schema)
	}
	b := Batch{Run: h.Run, Number: h.Number, Missing: h.Missing}
	for len(rest) > 0 {
		var text []byte
		if text, rest, ok = bytes.Cut(rest, []byte("\n")); !ok || len(text) >= limits.AuditRecord {
			return Batch{}, denial.New(denial.BadInput, "line %d is too long, or has no end", len(b.Records)+2)
		}
		if len(b.Records) == limits.AuditRecords {
			return Batch{}, denial.New(denial.TooLarge, "more than %d records", limits.AuditRecords)
		}
		r, err := decodeRecord(text)
		if err != nil {
			return Batch{}, denial.New(denial.BadInput, "line %d: %w", len(b.Records)+2, err)
		}
		b.Records = append(b.Records, r)
	}
	return b, nil
}

func decodeRecord(text []byte) (Record, error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return Record{}, fmt.Errorf("record does not parse")
	}
	if l.At <= 0 || l.Kind == "" || l.Verdict == "" || l.Size < 0 || l.Micros < 0 {
		return Record{}, fmt.Errorf("record without time, kind or verdict")
	}
	return Record{
		Time: time.UnixMilli(l.At).UTC(), Kind: l.Kind, Verdict: l.Verdict, Reason: l.Reason, Detail: l.Detail, Denial: l.Denial,
		Correlation: l.Correlation, Nonce: l.Nonce, Parent: l.Parent, Sender: l.Sender, Instance: l.Instance, Peer: l.Peer,
		Scope: l.Scope, Subject: l.Subject, Chain: l.Chain, Payload: l.Payload, Size: l.Size,
		Duration: time.Duration(l.Micros) * time.Microsecond,
		Host:     l.Host, Key: l.Key, Server: l.Server, Epoch: l.Epoch, Suppressed: l.Suppressed,
	}, nil
}

// By reports whether an instance may say this of itself: the record is about a
// message that it sent or that came to it. What it says of others counts for
// nothing.
func (r Record) By(agent agentid.ID, instance agentid.Instance) bool {
	switch r.Kind {
	case Made:
		return r.Sender == agent && r.Instance == instance
	case Call, Reply:
		return r.Peer == agent
	case Event, Note:
		return r.Peer == agent || r.Sender == agent && r.Instance == instance
	}
	return agent == agentid.Control
}
