package audit_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

var (
	asker    = agentid.Require("asker")
	reader   = agentid.Require("reader")
	instance = agentid.InstanceOf("asker")
	noon     = time.Date(2026, 1, 2, 12, 0, 0, 123e6, time.UTC)
)

func full() audit.Record {
	return audit.Record{
		Time: noon, Kind: audit.Call, Verdict: audit.Refused, Reason: denial.Replayed, Detail: "d", Denial: "d-1", Correlation: "c",
		Nonce: "n", Parent: "p", Sender: asker, Instance: instance, Peer: reader, Scope: "read:logs", Subject: "mesh.call.asker.read.logs",
		Chain: "ch", Payload: "pd", Size: 3, Duration: 1500 * time.Microsecond, Host: "h", Key: "U", Server: "N", Epoch: "1.1", Suppressed: 2,
	}
}

func encode(t *testing.T, list ...audit.Record) []byte {
	t.Helper()
	b := audit.AppendHead(nil, "run", 1, 0)
	for _, r := range list {
		var err error
		if b, err = audit.AppendRecord(b, r); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// What is written is read again, each field of a record: one that is added and
// forgotten here would be lost.
func TestBatchRoundTrip(t *testing.T) {
	r := full()
	for f, v := range reflect.ValueOf(r).Fields() {
		if v.IsZero() {
			t.Fatalf("field %s is empty: the test proves nothing of it", f.Name)
		}
	}
	b, err := audit.Decode(encode(t, r, r))
	if err != nil {
		t.Fatal(err)
	}
	if b.Run != "run" || b.Number != 1 || len(b.Records) != 2 || b.Records[1] != r {
		t.Errorf("got  %+v\nwant %+v twice", b, r)
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	r := full()
	r.Verdict = audit.Failed
	b, err := audit.Decode(encode(t, r))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Records[0]; got.Detail != "" || got.Subject != "" {
		t.Errorf("got detail %q and subject %q of what failed, want neither: it may quote a payload", got.Detail, got.Subject)
	}
	// A record that strangers made too long is kept without what they chose.
	r = full()
	r.Detail, r.Subject, r.Scope = strings.Repeat("<", 9000), strings.Repeat("&", 9000), strings.Repeat("é", 9000)
	if b, err = audit.Decode(encode(t, r)); err != nil {
		t.Fatal(err)
	}
	got := b.Records[0]
	if got.Reason != r.Reason || got.Sender != asker || len(got.Scope) > limits.AuditText || strings.ContainsRune(got.Scope, '�') {
		t.Errorf("got %+v, want the record with its scope cut between characters", got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(encode(t, full()))
	head, line, _ := strings.Cut(good, "\n")
	many := head + "\n" + strings.Repeat(`{"at":1,"audit":"call","verdict":"sent"}`+"\n", limits.AuditRecords+1)
	for name, text := range map[string]string{
		"empty":             "",
		"no head":           line,
		"another schema":    strings.Replace(good, "/v1", "/v2", 1),
		"batch zero":        strings.Replace(good, `"batch":1`, `"batch":0`, 1),
		"no line break":     strings.TrimSuffix(good, "\n"),
		"an empty line":     good + "\n",
		"no JSON":           good + "x\n",
		"no kind":           good + `{"at":1,"verdict":"sent"}` + "\n",
		"no time":           good + `{"audit":"call","verdict":"sent"}` + "\n",
		"a foreign name":    good + `{"at":1,"audit":"call","verdict":"sent","sender":"No Name"}` + "\n",
		"a negative size":   good + `{"at":1,"audit":"call","verdict":"sent","size":-1}` + "\n",
		"too many records":  many,
		"a line too long":   good + `{"at":1,"audit":"call","verdict":"sent","detail":"` + strings.Repeat("x", limits.AuditRecord) + "\"}\n",
		"a batch too large": good + strings.Repeat(line, limits.AuditMessage/len(line)+1),
	} {
		if b, err := audit.Decode([]byte(text)); err == nil {
			t.Errorf("%s: got %d records, want an error", name, len(b.Records))
		}
	}
	if _, err := audit.Decode([]byte(strings.Replace(good, `"audit"`, `"later":{"a":1},"audit"`, 1))); err != nil {
		t.Errorf("a field of a later version: got %v, want it passed over", err)
	}
}

// An instance speaks for itself alone.
func TestBy(t *testing.T) {
	self := agentid.InstanceOf("reader")
	other := agentid.InstanceOf("another")
	for _, tt := range []struct {
		name string
		r    audit.Record
		want bool
	}{
		{"a call that it took", audit.Record{Kind: audit.Call, Sender: asker, Instance: other, Peer: reader}, true},
		{"a call that another took", audit.Record{Kind: audit.Call, Sender: reader, Instance: self, Peer: asker}, false},
		{"a call that it made", audit.Record{Kind: audit.Made, Sender: reader, Instance: self, Peer: asker}, true},
		{"a call that another instance made", audit.Record{Kind: audit.Made, Sender: reader, Instance: other, Peer: asker}, false},
		{"a call that another made of it", audit.Record{Kind: audit.Made, Sender: asker, Peer: reader}, false},
		{"an event that it published", audit.Record{Kind: audit.Event, Sender: reader, Instance: self}, true},
		{"an event that it took", audit.Record{Kind: audit.Event, Sender: asker, Peer: reader}, true},
		{"an event among others", audit.Record{Kind: audit.Event, Sender: asker, Peer: asker}, false},
		{"a connection", audit.Record{Kind: audit.Connect, Sender: reader, Instance: self, Peer: reader}, false},
		{"a change", audit.Record{Kind: audit.Change, Sender: reader, Instance: self, Peer: reader}, false},
		{"a beat", audit.Record{Kind: audit.Beat, Peer: reader}, false},
		{"something new", audit.Record{Kind: "trace", Sender: reader, Instance: self, Peer: reader}, false},
	} {
		if got := tt.r.By(reader, self); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if !(audit.Record{Kind: audit.Connect, Sender: asker}).By(agentid.Control, self) {
		t.Error("the control plane may not say who connected")
	}
}

func FuzzDecode(f *testing.F) {
	b := audit.AppendHead(nil, "run", 1, 7)
	b, err := audit.AppendRecord(b, full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := audit.Decode(data)
		if err != nil {
			if denial.Of(err) == "" {
				t.Fatalf("got %v, want a reason", err)
			}
			return
		}
		// What was read can be written, and is then read as the same, but for what is
		// left out and cut.
		again := audit.AppendHead(nil, got.Run, got.Number, got.Missing)
		for _, r := range got.Records {
			if again, err = audit.AppendRecord(again, r); denial.Of(err) == denial.TooLarge {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
		twice, err := audit.Decode(again)
		if len(again) > limits.AuditMessage {
			return // written with more characters than it was read
		}
		if err != nil || len(twice.Records) != len(got.Records) {
			t.Fatalf("got %d records, %v, want %d", len(twice.Records), err, len(got.Records))
		}
		for i, r := range twice.Records {
			if r.Kind != got.Records[i].Kind || r.Sender != got.Records[i].Sender || !r.Time.Equal(got.Records[i].Time) {
				t.Fatalf("got %+v, want %+v", r, got.Records[i])
			}
		}
	})
}

// sink is where batches go.
type sink struct {
	mu      sync.Mutex
	batches []audit.Batch
	fail    bool
	came    chan struct{}
}

func (s *sink) send(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return fmt.Errorf("no way")
	}
	if len(data) > limits.AuditBatch+1024 {
		return fmt.Errorf("batch of %d bytes", len(data))
	}
	b, err := audit.Decode(bytes.Clone(data))
	if err != nil {
		return err
	}
	s.batches = append(s.batches, b)
	if s.came != nil {
		s.came <- struct{}{}
	}
	return nil
}

func (s *sink) sum(t *testing.T) (records int, missing uint64) {
	t.Helper()
	for i, b := range s.batches {
		if b.Number != uint64(i+1) || b.Run != s.batches[0].Run {
			t.Errorf("batch %d of %q: got number %d of %q", i+1, s.batches[0].Run, b.Number, b.Run)
		}
		records += len(b.Records)
		missing += b.Missing
	}
	return records, missing
}

func TestSpoolKeepsOrderAndLimits(t *testing.T) {
	s, out := audit.NewSpool(), &sink{}
	for i := range 1000 {
		r := full()
		r.Size = i + 1
		s.Add(r)
	}
	s.Flush(out.send)
	n, missing := out.sum(t)
	if n != 1000 || missing != 0 || len(out.batches) < 4 {
		t.Fatalf("got %d records, %d missing, in %d batches, want 1000 in some", n, missing, len(out.batches))
	}
	i := 0
	for _, b := range out.batches {
		if len(b.Records) > limits.AuditRecords {
			t.Errorf("got %d records in a batch", len(b.Records))
		}
		for _, r := range b.Records {
			if i++; r.Size != i {
				t.Fatalf("got record %d in place of %d", r.Size, i)
			}
		}
	}
	before := len(out.batches)
	if s.Flush(out.send); len(out.batches) != before {
		t.Error("something was sent twice")
	}
}

// What does not fit is left out and counted, and what could not be sent is too:
// nothing is missing without a number.
func TestSpoolCountsWhatIsMissing(t *testing.T) {
	s, out := audit.NewSpool(), &sink{fail: true}
	const all = 20_000
	for range all {
		s.Add(full())
	}
	s.Flush(out.send) // one batch is lost
	out.fail = false
	s.Flush(out.send)
	s.Add(full())
	s.Flush(out.send)
	n, missing := out.sum(t)
	if uint64(n)+missing != all+1 || missing == 0 || n < limits.AuditBacklog/2/400 {
		t.Errorf("got %d records and %d missing, want %d together", n, missing, all+1)
	}
	if last := out.batches[len(out.batches)-1]; last.Missing != 0 || len(last.Records) != 1 {
		t.Errorf("got %d missing again, want them told once", last.Missing)
	}
}

// Records that come one by one do not wait for others for long, and wait while the
// server is away.
func TestSpoolRuns(t *testing.T) {
	s, out := audit.NewSpool(), &sink{came: make(chan struct{}, 100)}
	up := make(chan bool, 1)
	up <- false
	isUp := func() bool {
		v := <-up
		up <- v
		return v
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		s.Run(done, isUp, out.send)
		close(ended)
	}()
	for range limits.AuditRecords + 1 {
		s.Add(full())
	}
	select {
	case <-out.came:
		t.Error("a batch was sent while the server was away")
	case <-time.After(audit.Linger / 10):
	}
	<-up
	up <- true
	for n := 0; n < limits.AuditRecords+1; {
		select {
		case <-out.came:
		case <-time.After(time.Minute):
			t.Fatal("nothing came")
		}
		out.mu.Lock()
		n, _ = out.sum(t)
		out.mu.Unlock()
	}
	close(done)
	<-ended
}
