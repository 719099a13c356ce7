package limits_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/internal/limits"
)

// Limits that contain one another must leave room for what they contain, or a
// valid part makes an invalid whole.
func TestLimitsFitIntoEachOther(t *testing.T) {
	const (
		id       = 63 // an agent ID
		digest   = 43 // SHA-256 in base64url
		instance = 8
	)
	for _, tt := range []struct {
		what         string
		inner, outer int
	}{
		{"a call subject of the longest scope", len("mesh.call..") + id + limits.Scope, limits.Subject},
		{"an ask subject of the longest scope", len("mesh.ask...") + 2*id + limits.Scope, limits.Subject},
		{"a beat in an envelope", limits.Beat, limits.Payload},
		{"a beat of the longest names", 200 + 2*id + instance + 2*limits.ClientVersion, limits.Beat},
		{"one document in a chain", limits.Document, limits.Chain},
		{"a chain in a message", limits.Chain, limits.Payload},
		{"presented digests in the 4 kB control line", limits.Presented * (digest + 1), 3 << 10},
		{"live root tokens in a record", limits.LiveTokens * (digest + 3), limits.Document},
		{"voided delegations in a record", limits.Voided * (digest + 3), limits.Document},
		{"a list of ordinary scopes in a token", limits.Scopes * 48, limits.Document},
	} {
		if tt.inner > tt.outer {
			t.Errorf("%s: %d bytes do not fit into %d", tt.what, tt.inner, tt.outer)
		}
	}
	if limits.Ahead >= limits.Window {
		t.Errorf("Ahead %v is not below Window %v", limits.Ahead, limits.Window)
	}
}
