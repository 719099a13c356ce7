package interop_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// node runs the other implementation and returns what it says, line by line.
func node(t *testing.T, stdin string, args ...string) [][]byte {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("needs Node.js 18 or newer in the path: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), ".")
	if n, e := strconv.Atoi(major); err != nil || e != nil || n < 18 {
		t.Fatalf("needs Node.js 18 or newer, found %q: %v", version, err)
	}
	cmd := exec.CommandContext(ctx, path, append([]string{filepath.Join("node", "main.mjs")}, args...)...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node %v: %v\n%s", args, err, stderr.String())
	}
	return bytes.Split(bytes.TrimSpace(out), []byte("\n"))
}

// verdict is what the other implementation says of one vector, or the vector of
// itself.
type verdict struct {
	Name   string          `json:"name"`
	Accept json.RawMessage `json:"accept"`
	Refuse string          `json:"refuse"`
	Detail string          `json:"detail"`
}

// expected are the verdicts of the vectors below a folder.
func expected(t *testing.T, folder, schema string) map[string]verdict {
	t.Helper()
	out := map[string]verdict{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var v struct {
			verdict
			Schema string `json:"schema"`
		}
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		if v.Schema == schema {
			out[v.Name] = v.verdict
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestVectors: the other implementation gives every verdict that is expected.
func TestVectors(t *testing.T) {
	for _, tt := range []struct {
		mode   string
		folder string
		least  int // how many vectors there are at least
	}{{"envelope", "envelope", 1000}, {"capability", "capability", 600}, {"trust", "capability", 70}} {
		t.Run(tt.mode, func(t *testing.T) {
			folder := filepath.Join("..", "vectors", tt.folder)
			want := expected(t, folder, "sealmesh."+tt.mode+"-vector/v1")
			if len(want) < tt.least {
				t.Fatalf("found %d vectors, where there were %d and more", len(want), tt.least)
			}
			for _, line := range node(t, "", tt.mode, folder) {
				var got verdict
				if err := json.Unmarshal(line, &got); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				w, ok := want[got.Name]
				delete(want, got.Name)
				if !ok || got.Refuse != w.Refuse || !same(t, got.Accept, w.Accept) {
					t.Errorf("%s: got %q (%s) %s, want %q %s", got.Name, got.Refuse, got.Detail, got.Accept, w.Refuse, w.Accept)
				}
			}
			for name := range want {
				t.Errorf("%s: no verdict", name)
			}
		})
	}
}

func same(t *testing.T, a, b json.RawMessage) bool {
	t.Helper()
	var x, y any
	for text, into := range map[*json.RawMessage]*any{&a: &x, &b: &y} {
		if len(*text) == 0 {
			continue
		}
		if err := json.Unmarshal(*text, into); err != nil {
			t.Fatalf("%s: %v", *text, err)
		}
	}
	return reflect.DeepEqual(x, y)
}

// TestSpeccheck: both sides say the same of the signatures of which libraries do
// not.
func TestSpeccheck(t *testing.T) {
	path := filepath.Join("..", "vectors", "ed25519", "speccheck.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Name, Why string
			Accept    bool
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	lines := node(t, "", "ed25519", path)
	if len(lines) != len(file.Cases) || len(lines) != 12 {
		t.Fatalf("got %d verdicts of %d cases, want 12", len(lines), len(file.Cases))
	}
	for i, c := range file.Cases {
		var got struct {
			Name     string
			Verifies bool
		}
		if err := json.Unmarshal(lines[i], &got); err != nil || got.Name != c.Name || got.Verifies != c.Accept {
			t.Errorf("%s (%s): got %s, want %v", c.Name, c.Why, lines[i], c.Accept)
		}
	}
}

const domain = "mesh.example"

// request is what the other implementation is asked to sign.
type request struct {
	Name        string            `json:"name"`
	Seed        string            `json:"seed"`
	TrustDomain string            `json:"trust_domain"`
	Subject     string            `json:"subject"`
	Fields      map[string]string `json:"fields"`
	Headers     [][2]string       `json:"headers"`
	Payload     []byte            `json:"payload"`
	Request     string            `json:"request,omitempty"`
}

// TestSignedThere: what the other implementation signs is accepted here, and says
// what it was asked to say.
func TestSignedThere(t *testing.T) {
	seed := sha256.Sum256([]byte("sealmesh interop writer"))
	key := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	name, err := nkeys.Encode(nkeys.PrefixByteUser, key)
	if err != nil {
		t.Fatal(err)
	}
	writer, reader := agentid.Require("writer"), agentid.Require("reader")
	space := subject.Default()
	instance := agentid.InstanceOf(string(name))
	now := time.UnixMilli(1795408791123)
	least := map[string]string{
		"from": "writer", "ts": "1795408791000", "nonce": "AAECAwQFBgcICQoLDA0ODw", "corr": "EBESExQVFhcYGRobHB0eHw", "ep": "3.1", "hop": "0",
	}
	fields := func(more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range least {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	digest := base64.RawURLEncoding.EncodeToString(seed[:])
	asks := []request{
		{Name: "call", Subject: space.Call(writer, "read.logs"), Fields: fields(), Payload: []byte("tail 20")},
		{Name: "call with every field", Subject: space.Call(writer, "read.logs"), Payload: []byte{},
			Fields:  fields("parent", "ICEiIyQlJicoKSorLC0uLw", "hop", "16", "tok", digest, "ob", digest, "dl", "30000", "ct", "application/json"),
			Headers: [][2]string{{"Tenant", "blå"}, {"Path", "b"}, {"Path", ""}, {"path", "a\tb"}}},
		{Name: "note", Subject: space.Note(writer, reader, "cancel"), Fields: fields(), Payload: make([]byte, 100_000)},
		{Name: "beat", Subject: space.Beat(writer, instance), Fields: fields(), Payload: []byte("{}")},
		{Name: "reply", Subject: space.Reply(writer, reader, instance, "ICEiIyQlJicoKSorLC0uLw"), Payload: []byte("line 20"), Request: digest,
			Fields: fields("parent", "ICEiIyQlJicoKSorLC0uLw", "enc", "x1", "err", "disk-full", "part", "7/7")},
		{Name: "ask with a body", Subject: space.Ask(writer, reader, "read.logs"), Payload: []byte{},
			Fields: fields("body", envelope.BodyOf([]byte("tail 20")).String(), "enc", "x1")},
		{Name: "part of a piece", Subject: space.Reply(writer, reader, instance, "ICEiIyQlJicoKSorLC0uLw"), Payload: []byte("line 20"), Request: digest,
			Fields: fields("parent", "ICEiIyQlJicoKSorLC0uLw", "part", "7+")},
		{Name: "body", Subject: space.Body(writer, reader, instance, "ICEiIyQlJicoKSorLC0uLw"), Payload: []byte("tail 20"), Request: digest,
			Fields: fields("parent", "ICEiIyQlJicoKSorLC0uLw", "part", "1/1")},
	}
	var stdin strings.Builder
	for _, a := range asks {
		a.Seed, a.TrustDomain = hex.EncodeToString(seed[:]), domain
		if a.Headers == nil {
			a.Headers = [][2]string{}
		}
		line, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		stdin.Write(append(line, '\n'))
	}
	lines := node(t, stdin.String(), "sign")
	if len(lines) != len(asks) {
		t.Fatalf("got %d messages, want %d", len(lines), len(asks))
	}
	for i, a := range asks {
		t.Run(a.Name, func(t *testing.T) {
			var got struct {
				Name, Key, Digest string
				Message           struct {
					Subject string
					Headers [][2]string
					Payload []byte
				}
			}
			if err := json.Unmarshal(lines[i], &got); err != nil || got.Name != a.Name || got.Key != string(name) {
				t.Fatalf("got %s, %v", lines[i], err)
			}
			m := envelope.Message{Subject: got.Message.Subject, Header: map[string][]string{}, Data: got.Message.Payload}
			for _, h := range got.Message.Headers {
				m.Header[h[0]] = append(m.Header[h[0]], h[1])
			}
			u, err := envelope.Parse(m)
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			if _, err := u.CheckSubject(space); err != nil {
				t.Errorf("CheckSubject: %v", err)
			}
			if err := u.CheckTime(now, envelope.DefaultWindow()); err != nil {
				t.Errorf("CheckTime: %v", err)
			}
			var bound *envelope.Digest
			if a.Request != "" {
				bound = (*envelope.Digest)(seed[:])
			}
			v, err := u.Verify(domain, key, bound)
			if err != nil {
				t.Fatalf("Verify: %v", err)
			}
			text := m.Header[envelope.HeaderEnvelope][0]
			for field, value := range a.Fields {
				if !strings.Contains(text+";", ";"+field+"="+value+";") {
					t.Errorf("%s=%s is not in %s", field, value, text)
				}
			}
			if v.Digest().String() != got.Digest || v.From() != writer || !bytes.Equal(v.Data(), a.Payload) {
				t.Errorf("got digest %s of %s, want %s of writer", v.Digest(), v.From(), got.Digest)
			}
			headers := map[string][]string{}
			for _, h := range a.Headers {
				headers[h[0]] = append(headers[h[0]], h[1])
			}
			if len(headers) != len(v.Header()) || len(headers) > 0 && !reflect.DeepEqual(headers, v.Header()) {
				t.Errorf("got headers %q, want %q", v.Header(), headers)
			}
			// A message that is changed on the way is not taken for it.
			m.Data = append(bytes.Clone(m.Data), '!')
			if u, err = envelope.Parse(m); err == nil {
				_, err = u.Verify(domain, key, bound)
			}
			if err == nil {
				t.Error("another payload verifies as well")
			}
		})
	}
}
