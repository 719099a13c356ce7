package agentid_test

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
)

const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

// The derivation is part of the protocol: other implementations must get the
// same eight characters.
func TestInstanceOf(t *testing.T) {
	enc := base32.NewEncoding(crockford).WithPadding(base32.NoPadding)
	for _, key := range []string{"U", "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"} {
		sum := sha256.Sum256([]byte(key))
		want := enc.EncodeToString(sum[:5])
		if got := agentid.InstanceOf(key).String(); got != want {
			t.Errorf("InstanceOf(%s) = %s, want %s", key, got, want)
		}
	}
	if !agentid.InstanceOf("").IsZero() {
		t.Error("the instance of no key must be zero")
	}
}

func TestParseInstance(t *testing.T) {
	good := "7f3c2k9q"
	if i, err := agentid.ParseInstance(good); err != nil || i.String() != good {
		t.Errorf("ParseInstance(%s) = %s, %v", good, i, err)
	}
	for r := range rune(256) {
		for _, c := range []string{string(r), string([]byte{byte(r)})} {
			for _, s := range []string{c + good[1:], good[:7] + c} {
				want := len(c) == 1 && strings.Contains(crockford, c)
				if i, err := agentid.ParseInstance(s); (err == nil) != want || (err != nil && !i.IsZero()) {
					t.Errorf("ParseInstance(%q) = %q, %v, want accepted: %v", s, i, err, want)
				}
			}
		}
	}
	for _, s := range []string{"", good[:7], good + "0", strings.Repeat("0", 1000)} {
		if _, err := agentid.ParseInstance(s); err == nil {
			t.Errorf("ParseInstance(%.20q): got nil, want a refusal", s)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct {
		in, agent, instance string
		ok                  bool
	}{
		{"reader", "reader", "", true},
		{"reader/7f3c2k9q", "reader", "7f3c2k9q", true},
		{"reader/", "", "", false},
		{"/7f3c2k9q", "", "", false},
		{"reader/7f3c2k9q/", "", "", false},
		{"reader/7f3c2k9l", "", "", false},
		{"reader//7f3c2k9", "", "", false},
		{"Reader/7f3c2k9q", "", "", false},
		{"", "", "", false},
	} {
		id, instance, err := agentid.ParseTarget(tt.in)
		if (err == nil) != tt.ok || id.String() != tt.agent || instance.String() != tt.instance {
			t.Errorf("ParseTarget(%q) = %q, %q, %v, want %q, %q, ok: %v", tt.in, id, instance, err, tt.agent, tt.instance, tt.ok)
		}
	}
}

func ExampleID_SPIFFE() {
	fmt.Println(agentid.Require("reader").SPIFFE("example.org"))
	// Output: spiffe://example.org/agent/reader
}

// Attack 3: exactly one spelling of a SPIFFE ID is an agent's.
func TestFromSPIFFE(t *testing.T) {
	const td = "example.org"
	id := agentid.Require("reader")
	if got, err := agentid.FromSPIFFE(td, id.SPIFFE(td)); err != nil || got != id {
		t.Errorf("FromSPIFFE of SPIFFE = %q, %v", got, err)
	}
	for _, s := range []string{
		"",
		"reader",
		"spiffe://example.org/agent/",
		"spiffe://example.org/agent/reader/",
		"spiffe://example.org/agent//reader",
		"spiffe://example.org/agent/reader/x",
		"spiffe://example.org/agent/../agent/reader",
		"spiffe://example.org/agent/reader?x=1",
		"spiffe://example.org/agent/reader#x",
		"spiffe://example.org/agent/re%61der",
		"spiffe://example.org/agent/Reader",
		"spiffe://example.org/agents/reader",
		"spiffe://example.org/sealmesh/reader",
		"spiffe://example.org:443/agent/reader",
		"spiffe://x@example.org/agent/reader",
		"spiffe://example.org./agent/reader",
		"spiffe://EXAMPLE.ORG/agent/reader",
		"spiffe://example.com/agent/reader",
		"spiffe://sub.example.org/agent/reader",
		"SPIFFE://example.org/agent/reader",
		"https://example.org/agent/reader",
		" spiffe://example.org/agent/reader",
		"spiffe://example.org/agent/reader\n",
		agentid.ServiceSPIFFE(td, "reader"),
	} {
		if got, err := agentid.FromSPIFFE(td, s); err == nil || !got.IsZero() {
			t.Errorf("FromSPIFFE(%q) = %q, %v, want a refusal", s, got, err)
		}
	}
	// An empty trust domain must not accept whoever names none.
	if _, err := agentid.FromSPIFFE("", "spiffe:///agent/reader"); err == nil {
		t.Error("FromSPIFFE with no trust domain: got nil, want a refusal")
	}
}

func TestParseTrustDomain(t *testing.T) {
	label := strings.Repeat("a", 63)
	longest := strings.Join([]string{label, label, label, label[:61]}, ".")
	if len(longest) != agentid.MaxTrustDomainLen {
		t.Fatalf("the test is stale: %d bytes", len(longest))
	}
	for s, want := range map[string]bool{
		"mesh":                true,
		"mesh.example.org":    true,
		longest:               true,
		longest + "a":         false,
		label + "a.org":       false,
		"":                    false,
		".":                   false,
		"example.org.":        false,
		".example.org":        false,
		"example..org":        false,
		"Example.org":         false,
		"example.org/agent":   false,
		"example.org:443":     false,
		"exam_ple.org":        false,
		"-example.org":        false,
		"example.org\n":       false,
		"b\u00fccher.example": false,
	} {
		if got, err := agentid.ParseTrustDomain(s); (err == nil) != want || (want && got != s) {
			t.Errorf("ParseTrustDomain(%q) = %q, %v, want accepted: %v", s, got, err, want)
		}
	}
}
