package capability_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

// trustVector is a file about a trust document.
type trustVector struct {
	about
	keys
	TrustDomain string   `json:"trust_domain"`
	Trust       string   `json:"trust"`
	Accept      *trusted `json:"accept"`
}

// trusted names the roots by the digests of their DER.
type trusted struct {
	Version int64    `json:"version"`
	Infra   []string `json:"infra"`
	Agent   []string `json:"agent"`
}

// keyring is what a reader believes who begins with the roots and certificates and
// hears of one list after the other. Only the last one may be refused.
func (k keys) keyring() (*capability.Keyring, error) {
	ring, err := capability.NewKeyring(k.Roots, k.Certificates)
	if err != nil || len(k.Lists) == 0 {
		return ring, err
	}
	var log bytes.Buffer
	peers, err := gate.NewPeers(gate.PeersConfig{
		Roots: k.Roots, Ring: ring, Reader: nobody{}, Clock: time.Now, Log: zerolog.New(&log),
	})
	if err != nil {
		return nil, fmt.Errorf("the vector has no reader: %w", err)
	}
	for i, list := range k.Lists {
		before := peers.Ring()
		peers.Observe(registry.RingKey, list)
		if log.Len() == 0 {
			continue
		}
		var line struct {
			Error string `json:"error"`
		}
		if err := json.Unmarshal(log.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("%s: %w", log.Bytes(), err)
		}
		if i < len(k.Lists)-1 || peers.Ring() != before {
			return nil, fmt.Errorf("list %d was refused, and is not the last or changed something: %s", i+1, line.Error)
		}
		reason, detail, _ := strings.Cut(line.Error, ": ")
		return nil, denial.New(denial.Reason(reason), "%s", detail)
	}
	return peers.Ring(), nil
}

// nobody answers no question.
type nobody struct{}

func (nobody) Record(context.Context, string) (string, error) { return "", denial.NotFound }
func (nobody) Chain(context.Context, string) (string, error)  { return "", denial.NotFound }

func judgeTrust(v *trustVector) (*trusted, error) {
	ring, err := v.keyring()
	if err != nil {
		return nil, err
	}
	doc, err := capability.VerifyTrust(v.Trust, ring.Roots(), v.TrustDomain)
	if err != nil {
		return nil, err
	}
	infra, errInfra := doc.InfraRoots()
	agent, errAgent := doc.AgentRoots()
	if err := errors.Join(errInfra, errAgent); err != nil {
		// Too late, and no refusal of the document.
		return nil, fmt.Errorf("a document was taken and its roots were not: %s", err) //nolint:errorlint // see above
	}
	return &trusted{Version: int64(doc.Version), Infra: digests(infra), Agent: digests(agent)}, nil //nolint:gosec // an integer of a document has a sign
}

func digests(roots []*x509.Certificate) []string {
	out := []string{}
	for _, c := range roots {
		sum := sha256.Sum256(c.Raw)
		out = append(out, base64.RawURLEncoding.EncodeToString(sum[:]))
	}
	return out
}

func TestTrustVectors(t *testing.T) {
	_, all := loadAll(t)
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			if (v.Accept == nil) == (v.Refuse == "") {
				t.Fatal("the vector must say either what is accepted or why it is refused")
			}
			got, err := judgeTrust(v)
			if reason := denial.Of(err); reason != v.Refuse || (err != nil) != (v.Refuse != "") || !reflect.DeepEqual(got, v.Accept) {
				t.Errorf("got %+v, %v, want %+v, %q", got, err, v.Accept, v.Refuse)
			}
		})
	}
}

// TestSecondVerifierOfTrust: the specification, read once more, says what the
// vectors expect.
func TestSecondVerifierOfTrust(t *testing.T) {
	_, all := loadAll(t)
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			var got *trusted
			r, reason := secondReader(v.keys)
			if reason == "" {
				got, reason = r.trust(v.Trust, v.TrustDomain)
			}
			if reason != v.Refuse || !reflect.DeepEqual(got, v.Accept) {
				t.Errorf("got %+v, %q, want %+v, %q", got, reason, v.Accept, v.Refuse)
			}
		})
	}
}

// reader is the second verifier's memory of lists: K7 to K9.
type reader struct {
	roots  []string
	ring   keyring
	newest int64
	has    []string
	gone   []string // certificates that a list lacked
}

func secondReader(k keys) (*reader, denial.Reason) {
	r := &reader{roots: k.Roots, has: k.Certificates}
	var reason denial.Reason
	if r.ring, reason = buildKeyring(k.Roots, k.Certificates); reason != "" {
		return r, reason
	}
	for _, text := range k.Certificates {
		c, _ := read(text, "signing-key")
		r.newest = max(r.newest, c.i["iat"])
	}
	for i, list := range k.Lists {
		if reason = r.take(list); reason != "" && i < len(k.Lists)-1 {
			return r, "a list before the last is refused with " + reason
		}
	}
	return r, reason
}

func (r *reader) take(list string) denial.Reason {
	if len(list) > 65536 {
		return "bad-record" // K8
	}
	var words, certificates []*document
	for text := range strings.SplitSeq(list, "~") {
		d, reason := read(text, "successor")
		if reason == "" {
			if !signingKey(d.s["iss"], isAccount) || !signingKey(d.s["root"], isAccount) || d.s["iss"] == d.s["root"] {
				return "bad-token"
			}
			words = append(words, d)
			continue
		}
		if reason == "wrong-kind" {
			d, reason = read(text, "signing-key")
		}
		if reason != "" {
			return reason
		}
		if fault := certificateFault(d); fault != "" {
			return fault
		}
		certificates = append(certificates, d)
	}
	roots := slices.Clone(r.roots)
	for { // K7
		next := slices.IndexFunc(words, func(w *document) bool { return slices.Contains(roots, w.s["iss"]) })
		if next < 0 {
			break
		}
		w := words[next]
		words = slices.Delete(words, next, next+1)
		if !w.verifies() {
			return "bad-signature"
		}
		roots[slices.Index(roots, w.s["iss"])] = w.s["root"]
	}
	var kept []string
	newest := int64(0)
	for _, c := range certificates { // K8
		if slices.Contains(roots, c.s["iss"]) {
			kept, newest = append(kept, c.text), max(newest, c.i["iat"])
		}
	}
	ring, reason := buildKeyring(roots, kept)
	switch {
	case reason != "":
		return reason
	case len(kept) == 0:
		return "bad-record" // K8
	case newest < r.newest, slices.ContainsFunc(kept, func(c string) bool { return slices.Contains(r.gone, c) }):
		return "bad-record" // K9
	}
	for _, c := range r.has {
		if !slices.Contains(kept, c) {
			r.gone = append(r.gone, c)
		}
	}
	r.roots, r.ring, r.newest, r.has = roots, ring, newest, kept
	return ""
}

// trust is rules R1 and R2.
func (r *reader) trust(text, domain string) (*trusted, denial.Reason) {
	d, reason := read(text, "trust")
	switch {
	case reason != "":
		return nil, reason // R2
	case !slices.Contains(r.roots, d.s["iss"]):
		return nil, "unknown-signer" // R1
	case !d.verifies():
		return nil, "bad-signature" // R1
	case d.s["trust_domain"] != domain, d.i["version"] < 1, len(d.l["infra"]) == 0:
		return nil, "bad-token" // R2
	}
	out := &trusted{Version: d.i["version"], Infra: []string{}, Agent: []string{}}
	for name, to := range map[string]*[]string{"infra": &out.Infra, "agent": &out.Agent} {
		for _, entry := range d.l[name] {
			der, ok := unpack(entry)
			c, err := x509.ParseCertificate(der)
			if !ok || err != nil || !c.IsCA || slices.Contains(*to, digestOf(string(der))) || len(*to) == 8 {
				return nil, "bad-token" // R2
			}
			*to = append(*to, digestOf(string(der)))
		}
	}
	return out, ""
}
