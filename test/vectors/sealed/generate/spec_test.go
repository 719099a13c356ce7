package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

// specExample renders the worked example of docs/spec/sealed.md.
func specExample(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	dump := func(name string, b []byte) {
		fmt.Fprintf(&out, "%s (%d bytes)\n", name, len(b))
		for h := hex.EncodeToString(b); h != ""; {
			n := min(64, len(h))
			fmt.Fprintln(&out, " ", h[:n])
			h = h[n:]
		}
	}
	s := newStory("valid/one-instance")
	s.to = s.to[:1]
	info, header, commitment, content := s.parts()
	public, err := nkeys.Encode(nkeys.PrefixByteCurve, s.reader.public())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "reader's curve key, private  %s\n", s.reader.seed())
	fmt.Fprintf(&out, "                    public   %s\n", public)
	fmt.Fprintf(&out, "writer's key                 %s\n\n", s.made.Signer)
	dump("binding", info)
	dump("ephemeral private key", s.random("ephemeral for "+s.reader.label))
	dump("secret", s.secret())
	dump("header", header)
	okm := derive(s.secret(), info, header)
	dump("key of the content", okm[:32])
	dump("commitment", commitment)
	dump("content", content)
	dump("the payload", concat(header, commitment, content))
	return out.String()
}

// The worked example of the specification is what the generator writes.
func TestSpecExample(t *testing.T) {
	path := filepath.FromSlash("../../../../docs/spec/sealed.md")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := specExample(t); !strings.Contains(string(doc), "```\n"+want+"```\n") {
		t.Errorf("%s does not hold this example:\n%s", path, want)
	}
}
