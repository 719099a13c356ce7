package envelope_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// specExample renders the worked example of docs/spec/envelope.md.
func specExample(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	line := func(name, value string) {
		fmt.Fprintln(&out, strings.TrimRight(fmt.Sprintf("%-12s %s", name, value), " "))
	}
	dump := func(name string, b []byte) {
		fmt.Fprintf(&out, "%s (%d bytes)\n", name, len(b))
		h := hex.EncodeToString(b)
		for len(h) > 64 {
			fmt.Fprintln(&out, " ", h[:64])
			h = h[64:]
		}
		fmt.Fprintln(&out, " ", h)
	}
	identity := func(name string, fill byte) (agentid.ID, *envelope.Key) {
		raw := bytes.Repeat([]byte{fill}, ed25519.SeedSize)
		seed, err := nkeys.EncodeSeed(nkeys.PrefixByteUser, raw)
		if err != nil {
			t.Fatal(err)
		}
		key, err := envelope.NewKey(seed)
		if err != nil {
			t.Fatal(err)
		}
		line(name+" key", key.PublicKey())
		return agentid.Require(name), key
	}
	writer, writerKey := identity("writer", 1)
	reader, readerKey := identity("reader", 2)
	fmt.Fprintln(&out)

	show := func(key *envelope.Key, f envelope.Fields, subject string, app map[string][]string, payload string, request *envelope.Digest) envelope.Digest {
		header, digest, err := envelope.Sign("mesh.example", key, f, subject, app, []byte(payload), request)
		if err != nil {
			t.Fatal(err)
		}
		line("subject", subject)
		line("payload", payload)
		env := header[envelope.HeaderEnvelope][0]
		line(envelope.HeaderEnvelope, "")
		for rest := env; rest != ""; {
			n := min(72, len(rest))
			fmt.Fprintln(&out, " ", rest[:n])
			rest = rest[n:]
		}
		signed := envelope.SignedBytes("mesh.example", subject, env, []byte(payload), request)
		dump("signed bytes", signed)
		sum := sha256.Sum256(signed)
		dump("their SHA-256", sum[:])
		line(envelope.HeaderSignature, "")
		fmt.Fprintln(&out, " ", header[envelope.HeaderSignature][0])
		fmt.Fprintln(&out)
		return digest
	}
	app := map[string][]string{"Tenant": {"blue"}}
	names := "sealmesh-headers-v1\n\x00\x00\x00\x06Tenant\x00\x00\x00\x01\x00\x00\x00\x04blue"
	dump("what hd hashes", []byte(names))
	fmt.Fprintln(&out)
	ask := envelope.Fields{
		From: writer, Time: time.UnixMilli(1795408791123), Nonce: "AAECAwQFBgcICQoLDA0ODw", Correlation: "EBESExQVFhcYGRobHB0eHw",
		Epoch: envelope.Epoch{Agent: 3, Instance: 1}, Deadline: 30 * time.Second,
	}
	asked := show(writerKey, ask, subject.Default().Call(writer, "read.logs"), app, "tail 20", nil)
	answer := envelope.Fields{
		From: reader, Time: time.UnixMilli(1795408791187), Nonce: "ICEiIyQlJicoKSorLC0uLw", Correlation: ask.Correlation,
		Parent: ask.Nonce, Epoch: envelope.Epoch{Agent: 1, Instance: 1}, ContentType: "text/plain", Part: envelope.Part{Number: 1, Last: true},
	}
	back := subject.Default().Reply(reader, writer, agentid.InstanceOf(writerKey.PublicKey()), ask.Nonce)
	show(readerKey, answer, back, nil, "line 20", &asked)
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// The worked example of the specification is what the code does.
func TestSpecExample(t *testing.T) {
	const path = "../docs/spec/envelope.md"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := specExample(t); !strings.Contains(string(doc), "```\n"+want+"```\n") {
		t.Errorf("%s does not hold this example:\n%s", path, want)
	}
}
