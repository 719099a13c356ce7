package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

func TestDecode(t *testing.T) {
	root, records, tokens := key(t, nkeys.PrefixByteAccount, "root"), key(t, nkeys.PrefixByteAccount, "records"), key(t, nkeys.PrefixByteAccount, "tokens")
	ring := newRing(t, root, certify(t, root, records, capability.ForRecords), certify(t, root, tokens, capability.ForTokens))
	inst := agentid.InstanceOf("bob")
	decoders := map[string]func(text string, ring *capability.Keyring, at time.Time) error{
		"agent": func(text string, ring *capability.Keyring, at time.Time) error {
			a, err := registry.DecodeAgent(text, bob, ring, at)
			return same(a == nil, err)
		},
		"instance": func(text string, ring *capability.Keyring, at time.Time) error {
			i, err := registry.DecodeInstance(text, bob, inst, ring, at)
			return same(i == nil, err)
		},
		"tick": func(text string, ring *capability.Keyring, at time.Time) error {
			k, err := registry.DecodeTick(text, ring, at)
			return same(k == nil, err)
		},
	}
	make := func(kind string, kp nkeys.KeyPair) string {
		switch kind {
		case "agent":
			return sign(t, &agentDoc{registry.Agent{Agent: bob, Status: registry.Active, Epoch: 1}}, kind, kp)
		case "instance":
			return sign(t, &instanceDoc{registry.Instance{Agent: bob, Instance: inst, Epoch: 1}}, kind, kp)
		case "tick":
			return sign(t, &tickDoc{registry.Tick{Incarnation: 1}}, kind, kp)
		}
		passport, err := capability.IssuePassport(kp, bob, public(t, key(t, nkeys.PrefixByteUser, "bob")), public(t, key(t, nkeys.PrefixByteCurve, "bob")), start)
		if err != nil {
			t.Fatal(err)
		}
		return passport
	}
	stranger := key(t, nkeys.PrefixByteAccount, "stranger")
	own := newRing(t, key(t, nkeys.PrefixByteAccount, "other root"))
	for kind, decode := range decoders {
		good := make(kind, records)
		wantReason(t, kind, decode(good, ring, start), "")
		for _, other := range []string{"agent", "instance", "tick", "passport"} {
			if other != kind {
				wantReason(t, other+" as "+kind, decode(make(other, records), ring, start), denial.WrongKind)
			}
		}
		wantReason(t, kind+" by a stranger", decode(make(kind, stranger), ring, start), denial.UnknownSigner)
		wantReason(t, kind+" by the root itself", decode(make(kind, root), ring, start), denial.UnknownSigner)
		wantReason(t, kind+" by the tokens key", decode(make(kind, tokens), ring, start), denial.UnknownSigner)
		wantReason(t, kind+" by a user", decode(make(kind, key(t, nkeys.PrefixByteUser, "u")), ring, start), denial.UnknownSigner)
		wantReason(t, kind+" in another mesh", decode(good, own, start), denial.UnknownSigner)
		wantReason(t, kind+" without a keyring", decode(good, nil, start), denial.UnknownSigner)
		wantReason(t, kind+" before the key's time", decode(good, ring, start.Add(-2*time.Hour)), denial.UnknownSigner)
		wantReason(t, kind+" at the key's end", decode(good, ring, start.Add(90*24*time.Hour)), denial.UnknownSigner)
		wantReason(t, kind+" just before", decode(good, ring, start.Add(90*24*time.Hour-time.Second)), "")
		parts := strings.Split(good, ".")
		wantReason(t, kind+" with another signature", decode(parts[0]+"."+parts[1]+"."+strings.Split(make(kind, stranger), ".")[2], ring, start), denial.BadSignature)
		body, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		changed := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(body), `:1`, `:2`, 1)))
		if err := decode(parts[0]+"."+changed+"."+parts[2], ring, start); err == nil {
			t.Errorf("%s: a changed document verifies", kind)
		}
		wantReason(t, kind+": empty", decode("", ring, start), denial.BadToken)
	}

	for name, tt := range map[string]struct {
		agent agentid.ID
		inst  agentid.Instance
	}{"another agent": {carol, inst}, "nobody": {agentid.ID{}, inst}, "another instance": {bob, agentid.InstanceOf("x")}, "no instance": {bob, agentid.Instance{}}} {
		_, err := registry.DecodeInstance(make("instance", records), tt.agent, tt.inst, ring, start)
		wantReason(t, name, err, denial.BadRecord)
		if tt.inst == inst {
			_, err = registry.DecodeAgent(make("agent", records), tt.agent, ring, start)
			wantReason(t, name, err, denial.BadRecord)
		}
	}
	// A record of nobody is not what nobody asks for.
	_, err := registry.DecodeAgent(sign(t, &agentDoc{}, "agent", records), agentid.ID{}, ring, start)
	if err == nil {
		t.Error("a record without a name is read")
	}
}

// same fails where a decoder gives a document and an error, or neither.
func same(none bool, err error) error {
	if none != (err != nil) {
		return fmt.Errorf("a document beside the error %w", err)
	}
	return err
}

// What a store cannot read itself it does not write over what everybody can.
func TestNothingUnreadableIsWritten(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	w.reach(s, registry.Active)
	if err := s.Tick(w.ctx(), 0, time.Time{}, nil); err != nil {
		t.Fatal(err)
	}
	writes := r.writes(registry.AgentsBucket)
	cfg := w.config()
	cfg.Records = key(t, nkeys.PrefixByteAccount, "not certified")
	bad, err := registry.Open(w.ctx(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = bad.Suspend(w.ctx(), bob, "admin", "")
	wantReason(t, "a record by a key that is not certified", err, denial.UnknownSigner)
	wantReason(t, "a tick by it", bad.Tick(w.ctx(), 0, time.Time{}, nil), denial.UnknownSigner)
	wantReason(t, "an enrolment by it", w.tryEnrol(bad, bob, "bob 2"), denial.UnknownSigner)
	if got := r.writes(registry.AgentsBucket); got != writes {
		t.Errorf("%d records were written", got-writes)
	}
	if got := w.agent(s, bob).Status; got != registry.Active {
		t.Errorf("bob is %s", got)
	}
}

func TestStandingOfUnknownStates(t *testing.T) {
	for _, s := range []registry.Status{"", "Active", "unheard-of"} {
		wantReason(t, "status "+string(s), s.Standing(), denial.Revoked)
		wantReason(t, "state "+string(s), registry.State(s).Standing(), denial.Revoked)
	}
	wantReason(t, "active", registry.Active.Standing(), "")
	for _, s := range []registry.State{registry.Enrolled, registry.Online, registry.Left} {
		wantReason(t, string(s), s.Standing(), "")
	}
}

func TestRing(t *testing.T) {
	for _, list := range [][]string{{"a"}, {"a", "b"}} {
		if got := registry.SplitRing(registry.JoinRing(list)); !slices.Equal(got, list) {
			t.Errorf("got %v, want %v", got, list)
		}
	}
	if got := registry.SplitRing(""); got != nil {
		t.Errorf("got %v for nothing", got)
	}
	if got := registry.SplitRing(strings.Repeat("~", 1<<20)); got != nil {
		t.Errorf("got %d certificates for a megabyte of separators", len(got))
	}
}

// The names of the buckets stand in subjects, grants and server configurations;
// if one of those named another bucket, agents would read nothing or too much.
func TestBucketNames(t *testing.T) {
	for _, tt := range [][2]string{
		{registry.AgentsBucket, "MESH_AGENTS"}, {registry.ChainsBucket, "MESH_CHAINS"},
		{registry.SessionsBucket, "MESH_SESSIONS"}, {registry.JoinsBucket, "MESH_JOINS"},
		{natsconf.AgentsBucket, registry.AgentsBucket}, {natsconf.ChainsBucket, registry.ChainsBucket},
		{natsconf.ReplayBucket, "MESH_REPLAY"},
	} {
		if tt[0] != tt[1] {
			t.Errorf("got %s, want %s", tt[0], tt[1])
		}
	}
	g, err := authcallout.Compile(subject.Default(), authcallout.Subject{
		Agent: bob, Instance: agentid.InstanceOf("bob"), Scopes: scopes("handle:read:logs"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, subj := range []string{
		subject.DirectGet(registry.AgentsBucket, "*"), subject.DirectGet(registry.AgentsBucket, "*.*"), subject.DirectGet(registry.ChainsBucket, "*"),
		subject.Default().LeaderRead(registry.AgentsBucket), subject.Default().LeaderRead(registry.ChainsBucket),
		subject.ReplayGrant(natsconf.ReplayBucket, "read.logs"),
	} {
		if !slices.ContainsFunc(g.Publish, func(l authcallout.Line) bool { return l.Subject == subj }) {
			t.Errorf("no agent is granted %s", subj)
		}
	}
}

func TestLeaderRead(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	nc := w.conn()
	read := func(bucket, key string) (string, error) {
		t.Helper()
		m, err := nc.Request(subject.LeaderGet(bucket), registry.LeaderReadBody(bucket, key), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return registry.ParseLeaderRead(m.Data)
	}
	text, err := read(registry.AgentsBucket, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if a, err := registry.DecodeAgent(text, bob, w.ring, start); err != nil || a.Agent != bob {
		t.Errorf("got %v, %v", a, err)
	}
	_, err = read(registry.AgentsBucket, "carol")
	wantReason(t, "a key that is not there", err, denial.NotFound)
	w.raw().delete(registry.AgentsBucket, "bob")
	_, err = read(registry.AgentsBucket, "bob")
	wantReason(t, "a key that was deleted", err, denial.NotFound)
	// The body has one member, whatever the key holds.
	var body map[string]string
	if err := json.Unmarshal(registry.LeaderReadBody("B", `x","seq":1,"y":"`), &body); err != nil || len(body) != 1 {
		t.Errorf("got %v, %v", body, err)
	}
}

// Whatever a broker answers is a value, not found, or an error; nothing is both.
func FuzzParseLeaderRead(f *testing.F) {
	for _, seed := range []string{
		`{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","message":{"subject":"$KV.B.k","seq":7,"data":"aGVsbG8=","time":"2026-01-01T00:00:00Z"}}`,
		`{"message":{"seq":8,"hdrs":"TkFUUy8xLjANCktWLU9wZXJhdGlvbjogREVMDQoNCg=="}}`,
		`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`,
		`{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`,
		`{"error":{}}`, `{"message":{}}`, `{"message":{"seq":0,"data":"aGVsbG8="}}`, `{"message":null}`, `{}`, ``, `null`, `[]`,
		`{"error":{"err_code":10037},"message":{"seq":7,"data":"aGVsbG8="}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := registry.ParseLeaderRead(data)
		if (err == nil) != (text != "") {
			t.Fatalf("got %q and %v", text, err)
		}
		if err != nil && denial.Of(err) != "" && !errors.Is(err, denial.NotFound) {
			t.Fatalf("got %v, want not found or an error that is no refusal", err)
		}
		if err == nil {
			// A value is there only if the answer has it and says nothing else.
			var r struct {
				Error   any `json:"error"`
				Message struct {
					Seq  uint64 `json:"seq"`
					Data []byte `json:"data"`
				} `json:"message"`
			}
			if json.Unmarshal(data, &r) != nil || r.Error != nil || r.Message.Seq == 0 || string(r.Message.Data) != text {
				t.Fatalf("%q is not the value of %q", text, data)
			}
		}
	})
}

// Reading any text as a record never panics, and only a signed one is a record.
func FuzzDecodeAgent(f *testing.F) {
	root, records := key(f, nkeys.PrefixByteAccount, "root"), key(f, nkeys.PrefixByteAccount, "records")
	ring := newRing(f, root, certify(f, root, records, capability.ForRecords))
	good := sign(f, &agentDoc{registry.Agent{Agent: bob, Status: registry.Active, Epoch: 1, Tokens: []string{jws.Digest("x")}}}, "agent", records)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Fuzz(func(t *testing.T, text string) {
		a, err := registry.DecodeAgent(text, bob, ring, start)
		if (err == nil) != (text == good) || same(a == nil, err) != err {
			t.Fatalf("%q: got %v, %v", text, a, err)
		}
		if err != nil && denial.Of(err) == "" {
			t.Fatalf("%q: %v has no reason", text, err)
		}
	})
}
