package envelope_test

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

var required = []string{"v", "from", "key", "ts", "nonce", "corr", "ep", "hop"}

func parts(m envelope.Message) []string { return strings.Split(text(m), ";") }

func reparse(m envelope.Message, fields []string) error {
	_, err := envelope.Parse(with(m, envelope.HeaderEnvelope, strings.Join(fields, ";")))
	return err
}

func TestEveryFieldMissing(t *testing.T) {
	reader, answer, request := full(t)
	everyFieldMissing(t, reader, answer, &request)
	writer, question := fullAsk(t)
	everyFieldMissing(t, writer, question, nil)
}

func everyFieldMissing(t *testing.T, a identity, m envelope.Message, request *envelope.Digest) {
	t.Helper()
	for i, field := range parts(m) {
		name, _, _ := strings.Cut(field, "=")
		less := slices.Delete(parts(m), i, i+1)
		err := reparse(m, less)
		// parent is optional in general, and required of a reply.
		if slices.Contains(required, name) || name == "parent" && request != nil {
			if err == nil {
				t.Errorf("%s missing: parsed", name)
			} else {
				wantReason(t, err, denial.BadEnvelope)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s missing: got %v, want it to parse", name, err)
		}
		_, err = a.verify(with(m, envelope.HeaderEnvelope, strings.Join(less, ";")), request)
		wantReason(t, err, denial.BadSignature)
	}
}

func TestEveryFieldDoubled(t *testing.T) {
	_, answer, _ := full(t)
	_, question := fullAsk(t)
	for _, m := range []envelope.Message{answer, question} {
		n := len(parts(m))
		for i := range n {
			for at := range n + 1 {
				if err := reparse(m, slices.Insert(parts(m), at, parts(m)[i])); err == nil {
					t.Errorf("%s again at %d: parsed", parts(m)[i], at)
				} else {
					wantReason(t, err, denial.BadEnvelope)
				}
			}
		}
	}
}

func TestEveryPairOutOfOrder(t *testing.T) {
	_, answer, _ := full(t)
	_, question := fullAsk(t)
	for _, m := range []envelope.Message{answer, question} {
		n := len(parts(m))
		for i := range n {
			for j := i + 1; j < n; j++ {
				swapped := parts(m)
				swapped[i], swapped[j] = swapped[j], swapped[i]
				if err := reparse(m, swapped); err == nil {
					t.Errorf("%s and %s swapped: parsed", swapped[i], swapped[j])
				} else {
					wantReason(t, err, denial.BadEnvelope)
				}
			}
		}
	}
}

func TestValuesHaveOneSpelling(t *testing.T) {
	a, m, _ := full(t)
	key := a.key.PublicKey()
	account, err := nkeys.Encode(nkeys.PrefixByteAccount, a.public)
	if err != nil {
		t.Fatal(err)
	}
	// The same key with a bit of the prefix byte set that nkeys ignores.
	twin, err := nkeys.Encode(nkeys.PrefixByteUser, a.public)
	if err != nil {
		t.Fatal(err)
	}
	twin = respell(t, twin)
	if _, err := nkeys.Decode(nkeys.PrefixByteUser, twin); err != nil {
		t.Fatalf("the twin is not one that nkeys accepts: %v", err)
	}
	digest := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	cases := map[string][]string{
		"v":      {"", "01", "+1", "1.0", "x", " 1"},
		"from":   {"", "Reader", "reader.x", "-reader", "re ader", "reader*", strings.Repeat("a", 64), "réader"},
		"key":    {"", key[:55], key + "A", strings.ToLower(key), key[:55] + "=", string(account), string(twin), "U" + key[2:] + "A", key[:54] + string(key[55]) + string(key[54])},
		"ts":     {"", "0" + "1795408791123", "-1", "+1", "1e3", "1.5", "9007199254740992", "99999999999999999999", "٣", "0x1"},
		"nonce":  {"", "AAECAwQFBgcICQoLDA0OD", "AAECAwQFBgcICQoLDA0ODwA", "AAECAwQFBgcICQoLDA0ODx", "AAECAwQFBgcICQoLDA0O/w", "AAECAwQFBgcICQoLDA0ODw==", "AAECAwQFBgcICQoLDA0O\nw", "AAECAwQFBgcICQoLDA0O\r\n"},
		"corr":   {"", "x"},
		"parent": {"", "x"},
		"ep":     {"", "3", "3.", ".1", "3.1.1", "03.1", "3.01", "-3.1", "9007199254740992.1", "3,1"},
		"hop":    {"", "01", "-1", "1.0", "x"},
		"tok":    {"", digest[:42], digest + "A", digest[:42] + "B", digest + "="},
		"ob":     {"", digest[:42]},
		"dl":     {"", "0", "030000", "-1", "30s", strconv.FormatInt(limits.Budget.Milliseconds()+1, 10)},
		"ct":     {"", "a b", "a\"", "text/plain; charset=x", "a=b", strings.Repeat("a", limits.ContentType+1), "é"},
		"body":   {"", "11", "11.", "." + digest, "0." + digest, "011." + digest, "-1." + digest, "+1." + digest, "1e3." + digest, strconv.Itoa(limits.Body+1) + "." + digest, "11." + digest[:42], "11." + digest[:42] + "B", "11." + digest + "=", "11." + digest + "." + digest, digest + ".11", "11/" + digest},
		"enc":    {"", "x", "x0", "x2", "X1", "x01", "x1+", "1", "none", "identity"},
		"err":    {"", "Denied", "9lives", "-x", "a_b", "a.b", strings.Repeat("a", limits.ErrorCode+1)},
		"part":   {"", "0", "07", "7/", "/7", "7/8", "8/7", "7/07", "7/7/7", "0/0", "-1", "+", "0+", "07+", "+7", "7++", "7+/7", "7/7+", "7/+", "7-", "7 +", strconv.Itoa(limits.Parts+1) + "+", strconv.Itoa(limits.Parts + 1)},
		"hd":     {"", digest[:42]},
	}
	_, question := fullAsk(t)
	for _, m := range []envelope.Message{m, question} {
		for i, field := range parts(m) {
			name, _, _ := strings.Cut(field, "=")
			if cases[name] == nil {
				t.Errorf("no cases for %s", name)
			}
			for _, value := range cases[name] {
				changed := parts(m)
				changed[i] = name + "=" + value
				if err := reparse(m, changed); err == nil {
					t.Errorf("%s=%q parsed", name, value)
				} else {
					wantReason(t, err, denial.BadEnvelope)
				}
			}
		}
	}
}

// What is said in messages of one class means nothing in those of another, and is
// refused there, also where the signature is good.
func TestFieldsOfOneClass(t *testing.T) {
	a, to := agent(t, "writer"), agent(t, "reader")
	nonce := envelope.NewNonce()
	subjects := map[subject.Class]string{
		subject.Call: call, subject.Ask: ask, subject.Reply: replyTo(to, nonce), subject.Body: bodyTo(a, to, nonce),
		subject.Event: "mesh.event.writer.news", subject.Note: "mesh.note.writer.reader.cancel", subject.Beat: "mesh.beat.writer.x", subject.Audit: "mesh.audit.writer.x",
		"": "plain",
	}
	body := envelope.BodyOf([]byte("tail"))
	for _, c := range []struct {
		says    string
		set     func(*envelope.Fields)
		payload string
		in      []subject.Class // where it may stand
	}{
		{"nothing", func(*envelope.Fields) {}, "x", []subject.Class{subject.Call, subject.Ask, subject.Reply, subject.Event, subject.Note, subject.Beat, subject.Audit, ""}},
		{";err=no", func(f *envelope.Fields) { f.Err = "no" }, "x", []subject.Class{subject.Reply}},
		{";part=1", func(f *envelope.Fields) { f.Part.Number = 1 }, "x", []subject.Class{subject.Reply, subject.Body}},
		{";part=1/1", func(f *envelope.Fields) { f.Part = envelope.Part{Number: 1, Last: true} }, "x", []subject.Class{subject.Reply, subject.Body}},
		{";part=1+", func(f *envelope.Fields) { f.Part = envelope.Part{Number: 1, More: true} }, "x", []subject.Class{subject.Reply}},
		{";body=" + body.String(), func(f *envelope.Fields) { f.Body = body }, "", []subject.Class{subject.Call, subject.Ask}},
		{";body=" + body.String(), func(f *envelope.Fields) { f.Body = body }, "x", nil},
		{";enc=x1", func(f *envelope.Fields) { f.Enc = envelope.X1 }, "x", []subject.Class{subject.Ask, subject.Reply}},
		{";enc=x1;part=1", func(f *envelope.Fields) { f.Enc, f.Part.Number = envelope.X1, 1 }, "x", []subject.Class{subject.Reply}},
	} {
		for class, subj := range subjects {
			f := a.fields()
			f.Parent = nonce
			var request *envelope.Digest
			if class == subject.Reply || class == subject.Body {
				request = &envelope.Digest{1}
			}
			plain := f
			if class == subject.Body {
				plain.Part.Number = 1
			}
			header, _, err := envelope.Sign(domain, a.key, plain, subj, nil, nil, request)
			if err != nil {
				t.Fatalf("%s: %v", class, err)
			}
			c.set(&f)
			m := envelope.Message{Subject: subj, Header: header, Data: []byte(c.payload)}
			bare := strings.TrimSuffix(text(m), ";part=1")
			m = with(m, envelope.HeaderEnvelope, bare)
			if c.says != "nothing" {
				m = with(m, envelope.HeaderEnvelope, bare+c.says)
			}
			_, parsed := envelope.Parse(m)
			_, _, signed := envelope.Sign(domain, a.key, f, subj, nil, m.Data, request)
			if want := slices.Contains(c.in, class); (parsed == nil) != want || (signed == nil) != want {
				t.Errorf("%s in a %q of %q: got %v from Parse and %v from Sign, want it taken: %v", c.says, class, c.payload, parsed, signed, want)
			}
			for _, err := range []error{parsed, signed} {
				if err != nil {
					wantReason(t, err, denial.BadEnvelope)
				}
			}
		}
	}
}

// respell sets a bit of the prefix byte of a public nkey that nkeys ignores, and
// repairs the checksum.
func respell(t *testing.T, key []byte) []byte {
	t.Helper()
	b32 := base32.StdEncoding.WithPadding(base32.NoPadding)
	raw, err := b32.DecodeString(string(key))
	if err != nil {
		t.Fatal(err)
	}
	raw[0] |= 1
	for sum := range 1 << 16 {
		binary.LittleEndian.PutUint16(raw[33:], uint16(sum))
		if twin := []byte(b32.EncodeToString(raw)); nkeys.IsValidEncoding(twin) {
			return twin
		}
	}
	t.Fatal("no twin found")
	return nil
}

func TestVersions(t *testing.T) {
	_, m, _ := full(t)
	rest := strings.TrimPrefix(text(m), "v=1")
	for value, want := range map[string]denial.Reason{
		"v=2" + rest: denial.BadVersion, "v=0" + rest: denial.BadVersion, "v=2;whatever": denial.BadVersion, "v=17": denial.BadVersion,
		"v=1": denial.BadEnvelope, "V=1" + rest: denial.BadEnvelope, rest[1:]: denial.BadEnvelope, "": denial.BadEnvelope,
		" " + text(m): denial.BadEnvelope, text(m) + ";": denial.BadEnvelope, ";" + text(m): denial.BadEnvelope, text(m) + "\n": denial.BadEnvelope,
		text(m) + ";x=1": denial.BadEnvelope, text(m) + "\x00": denial.BadEnvelope, strings.Replace(text(m), ";", ";;", 1): denial.BadEnvelope,
		strings.Replace(text(m), ";", "; ", 1): denial.BadEnvelope, strings.Replace(text(m), "hop=1", "hop=17", 1): denial.Loop,
		strings.Replace(text(m), "hop=1", "hop=9007199254740991", 1): denial.Loop, strings.Repeat("v", limits.Envelope+1): denial.TooLarge,
	} {
		_, err := envelope.Parse(with(m, envelope.HeaderEnvelope, value))
		if denial.Of(err) != want {
			t.Errorf("%.60q: got %v, want %s", value, err, want)
		}
	}
}

func TestHeadersOfTheMesh(t *testing.T) {
	a, m, request := full(t)
	env, sig := text(m), m.Header[envelope.HeaderSignature][0]
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(sig, "ed25519:"))
	many := make([]string, 10_000)
	cases := map[string]struct {
		m    envelope.Message
		want denial.Reason
	}{
		"nothing":                    {envelope.Message{Subject: m.Subject}, denial.BadEnvelope},
		"no envelope":                {with(m, envelope.HeaderEnvelope), denial.BadEnvelope},
		"no signature":               {with(m, envelope.HeaderSignature), denial.BadEnvelope},
		"empty signature":            {with(m, envelope.HeaderSignature, ""), denial.BadEnvelope},
		"envelope twice":             {with(m, envelope.HeaderEnvelope, env, env), denial.BadEnvelope},
		"signature twice":            {with(m, envelope.HeaderSignature, sig, sig), denial.BadEnvelope},
		"lower-case name":            {with(with(m, envelope.HeaderEnvelope), "mesh-envelope", env), denial.BadEnvelope},
		"lower-case name beside":     {with(m, "mesh-envelope", env), denial.BadEnvelope},
		"upper-case signature":       {with(m, "MESH-SIGNATURE", sig), denial.BadEnvelope},
		"another of the mesh":        {with(m, "Mesh-Unsigned", "true"), denial.BadEnvelope},
		"signature none":             {with(m, envelope.HeaderSignature, "none"), denial.BadEnvelope},
		"signature without scheme":   {with(m, envelope.HeaderSignature, sig[8:]), denial.BadEnvelope},
		"other scheme":               {with(m, envelope.HeaderSignature, "hmac:"+sig[8:]), denial.BadEnvelope},
		"upper-case scheme":          {with(m, envelope.HeaderSignature, "ED25519:"+sig[8:]), denial.BadEnvelope},
		"batch":                      {with(m, envelope.HeaderSignature, "batch:0/1::"+sig[8:]), denial.BadVersion},
		"padded":                     {with(m, envelope.HeaderSignature, sig+"=="), denial.BadEnvelope},
		"spare bits":                 {with(m, envelope.HeaderSignature, sig[:len(sig)-1]+string(sig[len(sig)-1]+1)), denial.BadEnvelope},
		"standard base64":            {with(m, envelope.HeaderSignature, "ed25519:"+base64.RawStdEncoding.EncodeToString(append(slices.Clone(raw[:63]), 0xff))[:85]+"+"), denial.BadEnvelope},
		"short":                      {with(m, envelope.HeaderSignature, sig[:len(sig)-2]), denial.BadEnvelope},
		"line break":                 {with(m, envelope.HeaderSignature, sig[:40]+"\n"+sig[41:]), denial.BadEnvelope},
		"long signature":             {with(m, envelope.HeaderSignature, sig+strings.Repeat("A", limits.Signature)), denial.TooLarge},
		"long subject":               {envelope.Message{Subject: strings.Repeat("s", limits.Subject+1), Header: m.Header}, denial.TooLarge},
		"no subject":                 {envelope.Message{Header: m.Header}, denial.BadEnvelope},
		"large payload":              {envelope.Message{Subject: m.Subject, Header: m.Header, Data: make([]byte, limits.Payload+1)}, denial.TooLarge},
		"message ID":                 {with(m, "Nats-Msg-Id", "AAECAwQFBgcICQoLDA0ODw"), denial.BadEnvelope},
		"message ID twice":           {with(m, "Nats-Msg-Id", "ICEiIyQlJicoKSorLC0uLw", "ICEiIyQlJicoKSorLC0uLw"), denial.BadEnvelope},
		"message ID in another case": {with(m, "nats-msg-id", "ICEiIyQlJicoKSorLC0uLw"), denial.BadEnvelope},
		"10,000 values":              {with(m, "A", many...), denial.TooLarge},
		"10,000 of the server":       {with(m, "Nats-Stream", many...), denial.TooLarge},
		"long header":                {with(m, "A", strings.Repeat("v", limits.AppHeaderBytes)), denial.TooLarge},
		"error on a call":            {envelope.Message{Subject: call, Header: m.Header, Data: m.Data}, denial.BadEnvelope},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := envelope.Parse(c.m)
			wantReason(t, err, c.want)
		})
	}
	crowd := m
	for i := range 10_000 {
		if i%5000 == 0 {
			crowd = with(crowd, fmt.Sprint("X-", i), "1")
		} else {
			crowd.Header[fmt.Sprint("X-", i)] = []string{"1"}
		}
	}
	_, err := envelope.Parse(crowd)
	wantReason(t, err, denial.TooLarge)
	for _, fine := range []envelope.Message{
		m,
		with(m, "Nats-Msg-Id", "ICEiIyQlJicoKSorLC0uLw"),
		with(m, "Nats-Stream", "MESH_EVENTS"),
		with(with(m, "traceparent", "00-…"), "Tracestate", "x"),
	} {
		v := a.mustVerify(t, fine, &request)
		if got := len(v.Header()); got != 2 {
			t.Errorf("got %v, want the two signed headers", v.Header())
		}
	}
}

func TestRefusalDoesNotDependOnMapOrder(t *testing.T) {
	_, m, _ := full(t)
	m = with(with(with(m, "Mesh-A", "1"), "mesh-signature", "x"), "nats-msg-id", "y")
	_, first := envelope.Parse(m)
	for range 50 {
		if _, err := envelope.Parse(m); err.Error() != first.Error() {
			t.Fatalf("got %v, then %v", first, err)
		}
	}
}

func TestEpochsAndParts(t *testing.T) {
	for s, want := range map[string]envelope.Epoch{"0.0": {}, "3.1": {Agent: 3, Instance: 1}, "9007199254740991.0": {Agent: 1<<53 - 1}} {
		if got, err := envelope.ParseEpoch(s); err != nil || got != want || got.String() != s {
			t.Errorf("%s: got %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "3", "3.1.0", "03.1", " 3.1"} {
		_, err := envelope.ParseEpoch(s)
		wantReason(t, err, denial.BadEnvelope)
	}
	now := envelope.Epoch{Agent: 3, Instance: 1}
	for _, c := range []struct {
		e    envelope.Epoch
		want bool
	}{{now, true}, {envelope.Epoch{Agent: 4, Instance: 1}, true}, {envelope.Epoch{Agent: 3, Instance: 2}, true}, {envelope.Epoch{Agent: 4, Instance: 0}, false}, {envelope.Epoch{Agent: 2, Instance: 9}, false}} {
		if got := c.e.Covers(now); got != c.want {
			t.Errorf("%v covers %v: got %v", c.e, now, got)
		}
	}
	for want, p := range map[string]envelope.Part{"3": {Number: 3}, "3+": {Number: 3, More: true}, "7/7": {Number: 7, Last: true}, "1/1": {Number: 1, Last: true}} {
		if got := p.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// FuzzEnvelope: whatever parses encodes to the same bytes, uses only the
// characters of the format, and whatever does not is refused with a reason.
func FuzzEnvelope(f *testing.F) {
	_, m, _ := full(f)
	f.Add(text(m))
	for i := range parts(m) {
		f.Add(strings.Join(slices.Delete(parts(m), i, i+1), ";"))
	}
	_, question := fullAsk(f)
	f.Add(text(question))
	for i := range parts(question) {
		f.Add(strings.Join(slices.Delete(parts(question), i, i+1), ";"))
	}
	f.Add(strings.Replace(text(m), "part=7/7", "part=7+", 1))
	f.Add("v=2;x")
	f.Add("v=1;from=a;key=UA")
	f.Fuzz(func(t *testing.T, s string) {
		fields, err := envelope.Decode(s)
		if err != nil {
			wantReason(t, err, denial.BadEnvelope, denial.BadVersion, denial.Loop)
			return
		}
		if got := envelope.Encode(fields); got != s {
			t.Errorf("got %q, want %q", got, s)
		}
		for i := range len(s) {
			c := s[i]
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._:/+-;=", c) >= 0) {
				t.Errorf("%q passed", c)
			}
		}
	})
}

// FuzzSign: whatever signs also parses, verifies, and says the same, on a subject
// of every class.
func FuzzSign(f *testing.F) {
	a := agent(f, "writer")
	digest := envelope.BodyOf([]byte("x")).Digest
	classes := []string{"call", "ask", "reply", "body", "event", "note"}
	f.Add(uint8(0), int64(1795408791123), uint64(3), uint64(1), 0, "text/plain", "", 0, "", false, "", 0, false, false, "A-Header", "value", []byte("payload"))
	f.Add(uint8(0), int64(-1), uint64(1)<<60, uint64(0), 99, "a;err=b", "", 0, "", false, "", 0, false, false, "Mesh-X", " v", []byte(nil))
	f.Add(uint8(1), int64(1795408791123), uint64(3), uint64(1), 0, "text/plain", "AAECAwQFBgcICQoLDA0ODw", limits.Body, digest, true, "", 0, false, false, "A", "v", []byte(nil))
	f.Add(uint8(1), int64(1795408791123), uint64(3), uint64(1), 0, "", "", 1, "a;enc=x1", false, "", 0, false, false, "A", "v", []byte(nil))
	f.Add(uint8(2), int64(1795408791123), uint64(3), uint64(1), 0, "", "AAECAwQFBgcICQoLDA0ODw", 0, "", true, "disk-full", 7, true, false, "A", "v", []byte("x"))
	f.Add(uint8(2), int64(1795408791123), uint64(3), uint64(1), 0, "", "AAECAwQFBgcICQoLDA0ODw", 0, "", true, "", 7, false, true, "A", "v", []byte("x"))
	f.Add(uint8(3), int64(1795408791123), uint64(3), uint64(1), 0, "", "AAECAwQFBgcICQoLDA0ODw", 0, "", false, "", 1, true, false, "A", "v", []byte("x"))
	f.Fuzz(func(t *testing.T, class uint8, ms int64, agentEpoch, instanceEpoch uint64, hop int, ct, parent string,
		size int, sum string, enc bool, code string, part int, last, more bool, name, value string, data []byte) {
		fields := a.fields()
		fields.Time = time.UnixMilli(ms)
		fields.Epoch = envelope.Epoch{Agent: agentEpoch, Instance: instanceEpoch}
		fields.Hop, fields.ContentType, fields.Parent = hop, ct, parent
		fields.Body, fields.Enc = envelope.Body{Size: size, Digest: sum}, envelope.Enc(enc)
		fields.Err, fields.Part = code, envelope.Part{Number: part, Last: last, More: more}
		kind := classes[int(class)%len(classes)]
		subj := "mesh." + kind + ".writer.read.logs"
		var request *envelope.Digest
		if kind == "reply" || kind == "body" {
			request = &envelope.Digest{1}
		}
		header, digest, err := envelope.Sign(domain, a.key, fields, subj, map[string][]string{name: {value}}, data, request)
		if err != nil {
			wantReason(t, err, denial.BadEnvelope, denial.Loop, denial.TooLarge)
			return
		}
		v := a.mustVerify(t, envelope.Message{Subject: subj, Header: header, Data: data}, request)
		got := v.Fields()
		if !got.Time.Equal(fields.Time) || v.Digest() != digest {
			t.Errorf("got %+v, want %+v", got, fields)
		}
		fields.Key, fields.HeaderDigest, fields.Time = got.Key, got.HeaderDigest, got.Time
		if got != fields {
			t.Errorf("got %+v, want %+v", got, fields)
		}
		if h := v.Header(); len(h) != 1 || h[name][0] != value {
			t.Errorf("got headers %v, want %q: %q", h, name, value)
		}
		if v.Digest() != envelope.Digest(sha256.Sum256(envelope.SignedBytes(domain, subj, header[envelope.HeaderEnvelope][0], data, request))) {
			t.Error("digest is not that of the signed bytes")
		}
	})
}
