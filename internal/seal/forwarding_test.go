package seal_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/seal"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// opener is what a receiver does with the payload of a request that it verified.
type opener func(v *envelope.Verified) ([]byte, error)

// receive is a receiver that answers a request with what it was asked: it verifies
// the envelope by the key of who sent it, and opens the payload.
func receive(t *testing.T, m envelope.Message, sender *envelope.Key, open opener) ([]byte, agentid.ID, error) {
	t.Helper()
	u, err := envelope.Parse(m)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(sender.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	v, err := u.Verify(domain, ed25519.PublicKey(raw), nil)
	if err != nil {
		t.Fatalf("the envelope is good, and does not verify: %v", err)
	}
	plain, err := open(v)
	return plain, v.From(), err
}

func ask(t *testing.T, from string, nonce string, payload []byte) (envelope.Message, *envelope.Key) {
	t.Helper()
	key, id, reader := signerOf(t, from), agentid.Require(from), agentid.Require("reader")
	subj := subject.Default().Ask(id, reader, "read.logs")
	header, _, err := envelope.Sign(domain, key, envelope.Fields{
		From: id, Time: time.UnixMilli(1795408791123), Nonce: nonce, Correlation: nonce, Epoch: envelope.Epoch{Agent: 1, Instance: 1},
	}, subj, nil, payload, nil)
	if err != nil {
		t.Fatal(err)
	}
	return envelope.Message{Subject: subj, Header: header, Data: payload}, key
}

// Mallory took the payload of a request of writer's off the wire and cannot read
// it. It puts it into a message of its own, correctly signed, to the same agent;
// the agent opens it, takes what is in it for Mallory's words, and answers Mallory.
// With HPKE as it is that works, whatever is signed. With what the payload is bound
// to, it does not: neither under another sender nor in another request of the same.
func TestForwardingFails(t *testing.T) {
	const secret = "the password of the log is hunter2"
	nonce := asked(t).Nonce
	other := "ICEiIyQlJicoKSorLC0uLw"

	private, err := ecdh.X25519().NewPrivateKey(sha("seal test curve reader"))
	if err != nil {
		t.Fatal(err)
	}
	bare, err := hpke.NewDHKEMPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	fixed := []byte("an application's own label, the same for all")
	unbound, err := hpke.Seal(bare.PublicKey(), hpke.HKDFSHA256(), hpke.AES256GCM(), fixed, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	openUnbound := func(v *envelope.Verified) ([]byte, error) {
		return hpke.Open(bare, hpke.HKDFSHA256(), hpke.AES256GCM(), fixed, v.Data())
	}

	reader := keyOf(t, "reader")
	bound := sealed(t, to(reader), asked(t), secret)
	openBound := func(v *envelope.Verified) ([]byte, error) {
		f := v.Fields()
		return reader.Open(seal.Binding{TrustDomain: domain, Signer: f.Key, Recipient: agentid.Require("reader"), Nonce: f.Nonce}, v.Data())
	}

	for _, tt := range []struct {
		what    string
		from    string
		nonce   string
		payload []byte
		open    opener
		opens   bool
	}{
		{"unbound, of its sender", "writer", nonce, unbound, openUnbound, true},
		{"unbound, forwarded", "mallory", other, unbound, openUnbound, true}, // the attack
		{"unbound, forwarded under the same nonce", "mallory", nonce, unbound, openUnbound, true},
		{"bound, of its sender", "writer", nonce, bound, openBound, true},
		{"bound, forwarded", "mallory", other, bound, openBound, false},
		{"bound, forwarded under the same nonce", "mallory", nonce, bound, openBound, false},
		{"bound, sent again in another request", "writer", other, bound, openBound, false},
	} {
		m, key := ask(t, tt.from, tt.nonce, tt.payload)
		plain, from, err := receive(t, m, key, tt.open)
		if got := err == nil && string(plain) == secret; got != tt.opens || from.String() != tt.from {
			t.Errorf("%s: opened %v as %s's (%v), want %v", tt.what, got, from, err, tt.opens)
		}
		if !tt.opens && denial.Of(err) != denial.CannotOpen {
			t.Errorf("%s: got %v, want %q", tt.what, err, denial.CannotOpen)
		}
	}
}

// The same of answers: a handler cannot pass off as its own what another one
// answered, nor one piece as another.
func TestAnswersAreNotPassedOff(t *testing.T) {
	writer := keyOf(t, "writer")
	honest := sealed(t, to(writer), answered(t, 3), "line 20")
	if _, err := writer.Open(answered(t, 3), honest); err != nil {
		t.Fatal(err)
	}
	thief := answered(t, 3)
	thief.Signer = signerOf(t, "mallory").PublicKey()
	got, err := writer.Open(thief, honest)
	refused(t, "under another handler's signature", got, err)
	got, err = writer.Open(answered(t, 4), honest)
	refused(t, "as another piece", got, err)
}

// What is sealed shows nothing of itself but its length.
func TestNothingShows(t *testing.T) {
	plain := []byte(strings.Repeat("the password of the log is hunter2\n", 100))
	payload := sealed(t, to(keyOf(t, "reader"), keyOf(t, "other")), asked(t), string(plain))
	for at := 0; at+8 <= len(plain); at += 8 {
		if bytes.Contains(payload, plain[at:at+8]) {
			t.Fatalf("the eight bytes %q show", plain[at:at+8])
		}
	}
}
