package capability_test

import (
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// must keeps the examples short; a program looks at its errors.
func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

func public(kp nkeys.KeyPair) string { return must(kp.PublicKey()) }

// authority is a root with its two online signing keys.
type authority struct {
	tokens, records nkeys.KeyPair
	ring            *capability.Keyring
}

func newAuthority(at time.Time) authority {
	root := must(nkeys.CreateAccount())
	a := authority{tokens: must(nkeys.CreateAccount()), records: must(nkeys.CreateAccount())}
	until := at.Add(90 * 24 * time.Hour)
	a.ring = must(capability.NewKeyring([]string{public(root)}, []string{
		must(capability.CertifyKey(root, public(a.tokens), capability.ForTokens, at, until, at)),
		must(capability.CertifyKey(root, public(a.records), capability.ForRecords, at, until, at)),
	}))
	return a
}

func Example() {
	at := time.Date(2026, time.November, 23, 10, 0, 0, 0, time.UTC)
	mesh := newAuthority(at)
	logs, secrets := capability.RequireScope("read:logs"), capability.RequireScope("read:secrets")

	// The authority gives the orchestrator two rights, one of them to pass on.
	text := must(capability.IssueRoot(mesh.tokens, capability.Root{
		Agent:        agentid.Require("orchestrator"),
		Capabilities: []capability.Scope{logs, secrets},
		Delegatable:  []capability.Scope{logs},
		Depth:        1,
		Expires:      at.Add(24 * time.Hour),
	}, at))
	own := must(capability.Verify(text, mesh.ring, at))

	// One of its instances has a key and, from the authority, a passport for it.
	key, curve := must(nkeys.CreateUser()), must(nkeys.CreateCurveKeys())
	passport := must(capability.IssuePassport(mesh.records, own.Holder(), public(key), public(curve), at))
	lend := func(s capability.Scope) (string, error) {
		return capability.Delegate(own, key, passport, capability.Delegation{
			To:      agentid.Require("writer"),
			Scopes:  []capability.Scope{s},
			Expires: at.Add(10 * time.Minute),
		}, at)
	}

	_, err := lend(secrets)
	fmt.Println("lend read:secrets:", err)

	lent := must(capability.Verify(must(lend(logs)), mesh.ring, at))
	fmt.Println("lend read:logs:", lent.Holder(), lent.Scopes(), "until", lent.Expires().Format(time.TimeOnly))
	// Output:
	// lend read:secrets: not-delegatable: "orchestrator" holds "read:secrets" and may not pass it on
	// lend read:logs: writer [read:logs] until 10:10:00
}

func ExampleParseScope() {
	for _, text := range []string{"read:*", "read:all", "read:Logs", "read:logs"} {
		s, err := capability.ParseScope(text)
		if err != nil {
			fmt.Println(text, "is refused:", denial.Of(err))
			continue
		}
		fmt.Println(s, "is the right to call", s.Dotted())
	}
	// Output:
	// read:* is refused: wildcard-scope
	// read:all is refused: wildcard-scope
	// read:Logs is refused: bad-scope
	// read:logs is the right to call read.logs
}

func ExampleVerify() {
	at := time.Date(2026, time.November, 23, 10, 0, 0, 0, time.UTC)
	mesh, stranger := newAuthority(at), newAuthority(at)
	grant := capability.Root{
		Agent:        agentid.Require("reader"),
		Capabilities: []capability.Scope{capability.RequireScope("read:logs")},
		Expires:      at.Add(time.Hour),
	}
	forged := must(capability.IssueRoot(stranger.tokens, grant, at))
	text := must(capability.IssueRoot(mesh.tokens, grant, at))

	_, err := capability.Verify(forged, mesh.ring, at)
	fmt.Println("from a stranger:", denial.Of(err))
	_, err = capability.Verify(text, mesh.ring, at.Add(time.Hour))
	fmt.Println("an hour later:", denial.Of(err))
	chain, err := capability.Verify(text, mesh.ring, at)
	fmt.Println("now:", chain.Holder(), chain.Scopes(), err)
	// Output:
	// from a stranger: unknown-signer
	// an hour later: token-expired
	// now: reader [read:logs] <nil>
}

// suspended is a directory in which one agent has lost its standing.
type suspended struct{ agent agentid.ID }

func (d suspended) Standing(a agentid.ID) error {
	if a == d.agent {
		return denial.New(denial.Suspended, "by an operator")
	}
	return nil
}
func (suspended) SignerStanding(agentid.ID, string) error { return nil }
func (suspended) TokenLive(agentid.ID, string) error      { return nil }
func (suspended) NotVoided(agentid.ID, string) error      { return nil }

func ExampleChain_Check() {
	at := time.Date(2026, time.November, 23, 10, 0, 0, 0, time.UTC)
	mesh := newAuthority(at)
	chain := must(capability.Verify(must(capability.IssueRoot(mesh.tokens, capability.Root{
		Agent:        agentid.Require("reader"),
		Capabilities: []capability.Scope{capability.RequireScope("read:logs")},
		Expires:      at.Add(time.Hour),
	}, at)), mesh.ring, at))

	fmt.Println("suspended:", chain.Check(at, suspended{agentid.Require("reader")}))
	fmt.Println("resumed:", chain.Check(at, suspended{}))
	// Output:
	// suspended: delegator-cut: agent "reader": suspended: by an operator
	// resumed: <nil>
}
