package envelope_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

const schema = "sealmesh.envelope-vector/v1"

// vector is one file; README.md says what each member means.
type vector struct {
	Schema       string        `json:"schema"`
	Name         string        `json:"name"`
	Section      string        `json:"section"`
	Rule         string        `json:"rule"`
	Step         string        `json:"step"`
	Description  string        `json:"description"`
	TrustDomain  string        `json:"trust_domain"`
	Receiver     receiver      `json:"receiver"`
	Subscription subscription  `json:"subscription"`
	Directory    directory     `json:"directory"`
	Before       []earlier     `json:"before"`
	Message      message       `json:"message"`
	Accept       *accepted     `json:"accept"`
	Refuse       denial.Reason `json:"refuse"`
}

type receiver struct {
	Agent       string `json:"agent"`
	Prefix      string `json:"prefix"`
	Started     int64  `json:"started"`
	Now         int64  `json:"now"`
	Past        int64  `json:"past"`
	Ahead       int64  `json:"ahead"`
	Nonces      int    `json:"nonces"`
	PerSender   int    `json:"nonces_per_sender"`
	ReplaySince int64  `json:"replay_since"`
	SharedDown  bool   `json:"shared_store_down"`
	Burnt       []struct {
		Tail  string `json:"tail"`
		Agent string `json:"agent"`
		Nonce string `json:"nonce"`
	} `json:"burnt"`
}

type subscription struct {
	Class   subject.Class `json:"class"`
	Tail    string        `json:"tail"`
	Scope   string        `json:"scope"`
	From    string        `json:"from"`
	Request string        `json:"request"`
	Stream  bool          `json:"stream"`
	Key     string        `json:"key"`
	Body    string        `json:"body"`
	Stored  *pull         `json:"stored"`
}

// pull is the durable subscription by which a stored message came.
type pull struct {
	Consumer string `json:"consumer"`
	MaxAge   int64  `json:"max_age"`
}

type directory struct {
	Agents []struct {
		Agent  string          `json:"agent"`
		Status registry.Status `json:"status"`
		Epoch  uint64          `json:"epoch"`
		Since  uint64          `json:"since"`
		Live   []string        `json:"live"`
	} `json:"agents"`
	Instances []struct {
		Agent string         `json:"agent"`
		NKey  string         `json:"nkey"`
		State registry.State `json:"state"`
		Epoch uint64         `json:"epoch"`
		Since uint64         `json:"since"`
	} `json:"instances"`
	Unreadable []string `json:"unreadable"`
}

type earlier struct {
	Now     int64   `json:"now"`
	Message message `json:"message"`
}

type message struct {
	Subject string      `json:"subject"`
	Reply   string      `json:"reply"`
	Headers [][2]string `json:"headers"`
	Payload []byte      `json:"payload"`
	Zeros   int         `json:"payload_zeros"`
}

type accepted struct {
	From      string            `json:"from"`
	Instance  string            `json:"instance"`
	Fields    map[string]string `json:"fields"`
	Headers   [][2]string       `json:"headers"`
	Remaining *int64            `json:"remaining"`
	Stored    *place            `json:"stored"`
	Signed    []byte            `json:"signed"`
	Digest    string            `json:"digest"`
}

// place is what the server says of a stored message.
type place struct {
	Sequence    uint64 `json:"sequence"`
	Time        string `json:"time"`
	Redelivered bool   `json:"redelivered"`
}

// authority is the file that all vectors share.
type authority struct {
	Schema       string   `json:"schema"`
	Roots        []string `json:"roots"`
	Certificates []string `json:"certificates"`
	Chains       []string `json:"chains"`
}

// decode reads one file. A member that nobody reads would be a test that nobody
// runs.
func decode(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows")
	}
	return nil
}

// load returns all vectors, at least as many as there were ever meant to be.
func load(t testing.TB) []*vector {
	t.Helper()
	var out []*vector
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" || filepath.Dir(path) == "shared" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		v := new(vector)
		if err := decode(text, v); err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		if want := strings.TrimSuffix(filepath.ToSlash(path), ".json"); v.Name != want || v.Schema != schema {
			t.Errorf("%s: its name is %q, its schema %q", path, v.Name, v.Schema)
		}
		if (v.Accept == nil) == (v.Refuse == "") || (v.Refuse == "") != (v.Step == "") {
			t.Errorf("%s: a vector says what is accepted, or why and at which step it is refused", path)
		}
		out = append(out, v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 1000 {
		t.Fatalf("found %d vectors, where there were 1000 and more", len(out))
	}
	return out
}

func loadAuthority(t testing.TB) *authority {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash("shared/authority.json"))
	if err != nil {
		t.Fatal(err)
	}
	a := new(authority)
	if err := decode(text, a); err != nil || a.Schema != "sealmesh.envelope-authority/v1" || len(a.Chains) == 0 {
		t.Fatalf("authority: %v", err)
	}
	return a
}

// received is the message as a NATS client hands it over.
func (m message) received() envelope.Message {
	h := map[string][]string{}
	for _, line := range m.Headers {
		h[line[0]] = append(h[line[0]], line[1])
	}
	return envelope.Message{Subject: m.Subject, Reply: m.Reply, Header: h, Data: append(bytes.Clone(m.Payload), make([]byte, m.Zeros)...)}
}

// request is the digest that a reply or a body must answer.
func (s subscription) request(t testing.TB) *envelope.Digest {
	t.Helper()
	if s.Request == "" {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s.Request)
	if err != nil || len(raw) != len(envelope.Digest{}) {
		t.Fatalf("request %q is no digest", s.Request)
	}
	d := envelope.Digest(raw)
	return &d
}

// TestVectors judges each vector as a receiver does, through the one door.
func TestVectors(t *testing.T) {
	shared := loadAuthority(t)
	for _, v := range load(t) {
		t.Run(v.Name, func(t *testing.T) {
			w := newWorld(t, v, shared)
			got, err := w.judge(v.Message.Reply)
			if v.Accept == nil {
				if reason := denial.Of(err); reason != v.Refuse {
					t.Errorf("got %q (%v), want %q", reason, err, v.Refuse)
				}
				// The verified message comes with a refusal if the signature was good.
				if signed := slices.Contains([]string{"9", "10", "11", "12"}, v.Step); (got != nil) != signed {
					t.Errorf("got verified message %v, want %v", got != nil, signed)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			w.equal(got)
		})
	}
}

// TestLayers: what a step of package envelope refuses is refused there, and it
// lets pass what a later step refuses.
func TestLayers(t *testing.T) {
	order := []string{"1", "2a", "2b", "2c", "2d", "2e", "3a", "3b", "3c", "3d", "3e", "3f", "4", "5", "6", "7", "8", "9", "10", "11", "12", ""}
	shared := loadAuthority(t)
	for _, v := range load(t) {
		t.Run(v.Name, func(t *testing.T) {
			at := slices.Index(order, v.Step)
			if at < 0 {
				t.Fatalf("there is no step %q", v.Step)
			}
			// check reports whether the step let the message pass.
			check := func(what string, err error, steps ...string) bool {
				own := slices.Contains(steps, v.Step)
				later := at > slices.Index(order, steps[len(steps)-1])
				if own && denial.Of(err) != v.Refuse || later && err != nil {
					t.Errorf("%s: got %v, want %q", what, err, map[bool]denial.Reason{own: v.Refuse}[true])
				}
				return err == nil
			}
			w := newWorld(t, v, shared)
			u, err := envelope.Parse(v.Message.received())
			if !check("Parse", err, "1", "2a", "2b", "2c", "2d", "2e") {
				return
			}
			_, err = u.CheckSubject(w.space)
			if !check("CheckSubject", err, "3a", "3b", "3c") {
				return
			}
			if v.Step == "3d" || v.Step == "3e" || v.Step == "3f" {
				return // the gate knows on which subscription a message came, and how
			}
			if s := v.Subscription.Stored; s != nil {
				ack := must[subject.Ack](t)(subject.ParseAck(v.Message.Reply))
				err = u.CheckStored(ack.Time, w.clock.now, w.window, time.Duration(s.MaxAge)*time.Millisecond)
			} else {
				err = u.CheckTime(w.clock.now, w.window)
			}
			if !check("CheckTime", err, "4") {
				return
			}
			key := w.keyOf(u.UnsafeFields().Key)
			if key == nil {
				return
			}
			_, err = u.Verify(v.TrustDomain, key, v.Subscription.request(t))
			check("Verify", err, "8")
		})
	}
}

// TestReplyFieldCountsForNothing: wherever the reply field points, the verdict is
// the same, and an answer goes where the verified message says.
func TestReplyFieldCountsForNothing(t *testing.T) {
	shared := loadAuthority(t)
	n := 0
	for _, v := range load(t) {
		if v.Accept == nil || v.Subscription.Stored != nil {
			continue // of what is stored the field says where it was
		}
		w := newWorld(t, v, shared)
		got, err := w.judge("mesh.reply.victim.writer.x.y")
		if err != nil {
			t.Errorf("%s: refused for its reply field: %v", v.Name, err)
			continue
		}
		w.equal(got)
		if v.Subscription.Class != subject.Call && v.Subscription.Class != subject.Ask {
			continue
		}
		n++
		answer, err := w.answer(got)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if want := strings.Join([]string{v.Receiver.Prefix, "reply", v.Receiver.Agent, v.Accept.From, v.Accept.Instance, v.Accept.Fields["nonce"]}, "."); answer != want {
			t.Errorf("%s: the answer goes to %s, want %s", v.Name, answer, want)
		}
	}
	if n == 0 {
		t.Error("nothing was answered")
	}
}

// TestRunnerIsStrict: a member that is not known, a second document in a file,
// and a text that is none fail. Otherwise a misspelt vector would pass.
func TestRunnerIsStrict(t *testing.T) {
	for _, text := range []string{`{"schema":"x","expect":"ok"}`, `{"accept":{"scope":[]}}`, `{"message":{"header":[]}}`, `{} {}`, `{}]`, ``, `[]`, `{"message":{"payload":"!"}}`} {
		if err := decode([]byte(text), new(vector)); err == nil {
			t.Errorf("%s was read", text)
		}
	}
}
