package envelope_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

func TestSignedMessageIsVerifiedWithAllItSays(t *testing.T) {
	a, m, request := full(t)
	v := a.mustVerify(t, m, &request)
	if got := v.Fields(); envelope.Encode(got) != text(m) || got.Key != a.key.PublicKey() || !got.Time.Equal(t0) {
		t.Errorf("got fields %+v, want those of %s", got, text(m))
	}
	if v.From() != a.id || v.Instance() != agentid.InstanceOf(a.key.PublicKey()) || v.Subject() != m.Subject || string(v.Data()) != `{"lines":7}` {
		t.Errorf("got %s/%s %s %s", v.From(), v.Instance(), v.Subject(), v.Data())
	}
	want := map[string][]string{"Shard": {"a", "b"}, "Trace-Level": {"3"}}
	if got := v.Header(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got headers %v, want %v", got, want)
	}
	v.Header()["Shard"][0] = "changed"
	if got := v.Header()["Shard"][0]; got != "a" {
		t.Errorf("a caller changed the headers of the message to %q", got)
	}
}

func TestDigestIsThatOfTheSignedBytes(t *testing.T) {
	a := agent(t, "writer")
	m, digest := a.sign(t, a.fields(), call, nil, "tail", nil)
	want := envelope.Digest(sha256.Sum256(envelope.SignedBytes(domain, call, text(m), []byte("tail"), nil)))
	if digest != want || a.mustVerify(t, m, nil).Digest() != want {
		t.Errorf("got %s from Sign and %s from Verify, want %s", digest, a.mustVerify(t, m, nil).Digest(), want)
	}
}

func TestFourSignedItemsAreNeverFive(t *testing.T) {
	// A payload hash followed by what looks like a request must not be a reply:
	// the bytes end where the last item does, and each item has its length.
	request := envelope.Digest{1}
	without := envelope.SignedBytes(domain, call, "text", nil, nil)
	with := envelope.SignedBytes(domain, call, "text", nil, &request)
	if len(with) != len(without)+4+sha256.Size || !strings.HasPrefix(string(with), string(without)) {
		t.Errorf("got %d and %d bytes", len(without), len(with))
	}
	shifted := envelope.SignedBytes(domain, call+"x", "text", nil, nil)
	moved := envelope.SignedBytes(domain, call, "xtext", nil, nil)
	if string(shifted) == string(moved) {
		t.Error("a byte moved between subject and envelope gives the same signed bytes")
	}
}

func TestSignRefusesWhatNobodyWouldAccept(t *testing.T) {
	a := agent(t, "writer")
	digest := &envelope.Digest{1}
	long := strings.Repeat("a", limits.Subject+1)
	lines := make([]string, limits.AppHeaders+1)
	for i := range lines {
		lines[i] = "v"
	}
	type in struct {
		f       envelope.Fields
		subject string
		app     map[string][]string
		payload []byte
		request *envelope.Digest
	}
	cases := map[string]struct {
		change func(*in)
		want   denial.Reason
	}{
		"no sender":             {func(i *in) { i.f.From = agentid.ID{} }, denial.BadEnvelope},
		"another's key":         {func(i *in) { i.f.Key = agent(t, "reader").key.PublicKey() }, denial.BadEnvelope},
		"no time":               {func(i *in) { i.f.Time = time.Time{} }, denial.BadEnvelope},
		"no nonce":              {func(i *in) { i.f.Nonce = "" }, denial.BadEnvelope},
		"long nonce":            {func(i *in) { i.f.Nonce += "A" }, denial.BadEnvelope},
		"spare bits in nonce":   {func(i *in) { i.f.Nonce = i.f.Nonce[:21] + "x" }, denial.BadEnvelope},
		"no correlation":        {func(i *in) { i.f.Correlation = "" }, denial.BadEnvelope},
		"huge epoch":            {func(i *in) { i.f.Epoch.Agent = 1 << 53 }, denial.BadEnvelope},
		"negative hop":          {func(i *in) { i.f.Hop = -1 }, denial.BadEnvelope},
		"loop":                  {func(i *in) { i.f.Hop = limits.Hops + 1 }, denial.Loop},
		"short token":           {func(i *in) { i.f.Token = "abc" }, denial.BadEnvelope},
		"deadline below 1 ms":   {func(i *in) { i.f.Deadline = time.Microsecond }, denial.BadEnvelope},
		"negative deadline":     {func(i *in) { i.f.Deadline = -time.Second }, denial.BadEnvelope},
		"deadline of two days":  {func(i *in) { i.f.Deadline = 48 * time.Hour }, denial.BadEnvelope},
		"field in content type": {func(i *in) { i.f.ContentType = "a;err=b" }, denial.BadEnvelope},
		"long content type":     {func(i *in) { i.f.ContentType = strings.Repeat("a", limits.ContentType+1) }, denial.BadEnvelope},
		"error on a call":       {func(i *in) { i.f.Err = "no" }, denial.BadEnvelope},
		"part on a call":        {func(i *in) { i.f.Part.Number = 1 }, denial.BadEnvelope},
		"piece on a call":       {func(i *in) { i.f.Part = envelope.Part{Number: 1, More: true} }, denial.BadEnvelope},
		"empty body":            {func(i *in) { i.f.Body = envelope.BodyOf(nil) }, denial.BadEnvelope},
		"body of nothing":       {func(i *in) { i.f.Body.Digest = envelope.BodyOf(nil).Digest }, denial.BadEnvelope},
		"body without digest":   {func(i *in) { i.f.Body.Size = 1 }, denial.BadEnvelope},
		"negative body":         {func(i *in) { i.f.Body = envelope.BodyOf([]byte("x")); i.f.Body.Size = -1 }, denial.BadEnvelope},
		"huge body":             {func(i *in) { i.f.Body = envelope.BodyOf([]byte("x")); i.f.Body.Size = limits.Body + 1 }, denial.BadEnvelope},
		"field in body":         {func(i *in) { i.f.Body = envelope.Body{Size: 1, Digest: "a;err=b"} }, denial.BadEnvelope},
		"body and payload":      {func(i *in) { i.f.Body, i.payload = envelope.BodyOf([]byte("x")), []byte("x") }, denial.BadEnvelope},
		"sealed for anybody":    {func(i *in) { i.f.Enc = envelope.X1 }, denial.BadEnvelope},
		"last and going on": {func(i *in) {
			i.subject, i.request, i.f.Parent = "mesh.reply.a.b.c.d", digest, i.f.Nonce
			i.f.Part = envelope.Part{Number: 1, Last: true, More: true}
		}, denial.BadEnvelope},
		"going on from nowhere": {func(i *in) {
			i.subject, i.request, i.f.Parent = "mesh.reply.a.b.c.d", digest, i.f.Nonce
			i.f.Part = envelope.Part{More: true}
		}, denial.BadEnvelope},
		"body part without part": {func(i *in) {
			i.subject, i.request, i.f.Parent = "mesh.body.a.b.c.d", digest, i.f.Nonce
		}, denial.BadEnvelope},
		"body part without invitation": {func(i *in) {
			i.subject, i.f.Parent, i.f.Part.Number = "mesh.body.a.b.c.d", i.f.Nonce, 1
		}, denial.UnmatchedReply},
		"body part for nothing": {func(i *in) {
			i.subject, i.request, i.f.Parent, i.f.Part.Number = "mesh.body.a.b.c.d", &envelope.Digest{}, i.f.Nonce, 1
		}, denial.UnmatchedReply},
		"body part without parent": {func(i *in) {
			i.subject, i.request, i.f.Part.Number = "mesh.body.a.b.c.d", digest, 1
		}, denial.BadEnvelope},
		"request with a call":   {func(i *in) { i.request = digest }, denial.WrongSubject},
		"reply without request": {func(i *in) { i.subject = "mesh.reply.a.b.c.d"; i.f.Parent = i.f.Nonce }, denial.UnmatchedReply},
		"reply to nothing": {func(i *in) {
			i.subject, i.request, i.f.Parent = "mesh.reply.a.b.c.d", &envelope.Digest{}, i.f.Nonce
		}, denial.UnmatchedReply},
		"reply without parent":  {func(i *in) { i.subject, i.request = "mesh.reply.a.b.c.d", digest }, denial.BadEnvelope},
		"no subject":            {func(i *in) { i.subject = "" }, denial.BadEnvelope},
		"long subject":          {func(i *in) { i.subject = long }, denial.TooLarge},
		"large payload":         {func(i *in) { i.payload = make([]byte, limits.Payload+1) }, denial.TooLarge},
		"mesh header":           {func(i *in) { i.app = map[string][]string{"mesh-x": {"1"}} }, denial.BadEnvelope},
		"server's header":       {func(i *in) { i.app = map[string][]string{"NATS-TTL": {"1"}} }, denial.BadEnvelope},
		"trace header":          {func(i *in) { i.app = map[string][]string{"Traceparent": {"1"}} }, denial.BadEnvelope},
		"header name":           {func(i *in) { i.app = map[string][]string{"a b": {"1"}} }, denial.BadEnvelope},
		"empty header name":     {func(i *in) { i.app = map[string][]string{"": {"1"}} }, denial.BadEnvelope},
		"line break in header":  {func(i *in) { i.app = map[string][]string{"a": {"1\r\nb: 2"}} }, denial.BadEnvelope},
		"outer space in header": {func(i *in) { i.app = map[string][]string{"a": {"1 "}} }, denial.BadEnvelope},
		"many headers":          {func(i *in) { i.app = map[string][]string{"a": lines} }, denial.TooLarge},
		"long headers":          {func(i *in) { i.app = map[string][]string{"a": {strings.Repeat("v", limits.AppHeaderBytes)}} }, denial.TooLarge},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			i := in{f: a.fields(), subject: call}
			c.change(&i)
			h, d, err := envelope.Sign(domain, a.key, i.f, i.subject, i.app, i.payload, i.request)
			wantReason(t, err, c.want)
			if h != nil || !d.IsZero() {
				t.Errorf("got headers %v and digest %s beside a refusal", h, d)
			}
		})
	}
	if _, _, err := envelope.Sign("", a.key, a.fields(), call, nil, nil, nil); err == nil {
		t.Error("signed for no trust domain")
	}
}

func TestSignAtTheLimits(t *testing.T) {
	caller, a := agent(t, "writer"), agent(t, strings.Repeat("a", agentid.MaxLen))
	f := a.fields()
	principals := make([]string, limits.Behalf)
	for i := range principals {
		principals[i] = envelope.Digest{byte(i + 2)}.String()
	}
	f.Token, f.OnBehalf = envelope.Digest{1}.String(), strings.Join(principals, ".")
	f.Hop, f.Deadline, f.Parent = limits.Hops, limits.Budget, f.Nonce
	f.Epoch = envelope.Epoch{Agent: 1<<53 - 1, Instance: 1<<53 - 1}
	f.ContentType = strings.Repeat("a", limits.ContentType)
	f.Time = time.UnixMilli(1<<53 - 1)
	question := f
	question.Body, question.Enc = envelope.Body{Size: limits.Body, Digest: envelope.Digest{3}.String()}, envelope.X1
	f.Enc, f.Err = envelope.X1, strings.Repeat("e", limits.ErrorCode)
	f.Part = envelope.Part{Number: limits.Parts, Last: true}
	app := map[string][]string{"A": {strings.Repeat("v", limits.AppHeaderBytes-limits.AppHeaders)}}
	for range limits.AppHeaders - 1 {
		app["A"] = append(app["A"], "")
	}
	request := envelope.Digest{1}
	m, _ := a.sign(t, f, replyTo(caller, f.Parent), app, strings.Repeat("x", limits.Payload), &request)
	if got := a.mustVerify(t, m, &request).Header(); fmt.Sprint(got) != fmt.Sprint(app) {
		t.Error("headers at the limit do not survive")
	}
	// Every field that a reply can have is at its longest, and so is every field of
	// a request: whatever passes field by field fits.
	q, _ := a.sign(t, question, "mesh.ask."+a.id.String()+".writer.read.logs", app, "", nil)
	a.mustVerify(t, q, nil)
	for _, got := range []int{len(text(m)), len(text(q))} {
		if got > limits.Envelope {
			t.Errorf("the longest envelope has %d bytes, of %d", got, limits.Envelope)
		}
	}
}

func TestSignCutsTimesToMilliseconds(t *testing.T) {
	a := agent(t, "writer")
	f := a.fields()
	f.Time, f.Deadline = t0.Add(999_999).In(time.FixedZone("x", 3600)), 1500*time.Microsecond
	m, _ := a.sign(t, f, call, nil, "", nil)
	if got := a.mustVerify(t, m, nil).Fields(); got.Time != t0 || got.Deadline != time.Millisecond {
		t.Errorf("got %v and %v, want %v and 1ms", got.Time, got.Deadline, t0)
	}
}

func TestSignLeavesTheApplicationsMapAlone(t *testing.T) {
	a := agent(t, "writer")
	app := map[string][]string{"A": {"1"}, "Empty": nil}
	before := maps.Clone(app)
	m, _ := a.sign(t, a.fields(), call, app, "", nil)
	if fmt.Sprint(app) != fmt.Sprint(before) {
		t.Errorf("got %v, want %v", app, before)
	}
	if _, ok := m.Header["Empty"]; ok {
		t.Error("a header without values, which no wire carries, was signed")
	}
	m.Header["A"][0] = "2"
	if app["A"][0] != "1" {
		t.Error("the signed message shares values with the application's map")
	}
}

func TestNewKeyTakesUserSeedsOnly(t *testing.T) {
	raw := sha256.Sum256([]byte("an account"))
	account, _ := nkeys.EncodeSeed(nkeys.PrefixByteAccount, raw[:])
	for _, seed := range [][]byte{nil, []byte("SU"), account, []byte(agent(t, "writer").key.PublicKey())} {
		if k, err := envelope.NewKey(seed); err == nil {
			t.Errorf("got key %v of seed %q", k, seed)
		} else if len(seed) > 4 && strings.Contains(err.Error(), string(seed)) {
			t.Errorf("the error shows the seed: %v", err)
		}
	}
}

func TestKeyPrintsOnlyItsPublicHalf(t *testing.T) {
	k := agent(t, "writer").key
	holder := struct{ K *envelope.Key }{k}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		if got := fmt.Sprintf(format, k); got != k.PublicKey() {
			t.Errorf("%s: got %q", format, got)
		}
		if got := fmt.Sprintf(format, *k); got != k.PublicKey() {
			t.Errorf("%s of the value: got %q", format, got)
		}
		_ = fmt.Sprintf(format, holder) // the pointer itself may be printed, what it points to not
	}
}

func TestNoncesAreFresh(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		for _, id := range []string{envelope.NewNonce(), envelope.NewCorrelation()} {
			if len(id) != 22 || seen[id] {
				t.Fatalf("got %q again or of the wrong length", id)
			}
			seen[id] = true
		}
	}
}
