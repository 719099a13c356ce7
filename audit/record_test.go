package audit_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
)

func TestWrite(t *testing.T) {
	var out bytes.Buffer
	log := zerolog.New(&out)
	audit.Write(&log, audit.Record{
		Kind: audit.Call, Verdict: audit.Refused, Reason: denial.Replayed, Correlation: "c", Nonce: "n",
		Sender: agentid.Require("asker"), Scope: "read:logs", Size: 3, Duration: 1500 * time.Microsecond,
	})
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"level": "warn", "audit": "call", "verdict": "refused", "reason": "replayed", "correlation": "c", "nonce": "n",
		"sender": "asker", "scope": "read:logs", "size": 3.0, "ms": 1.5, "message": "audit",
	}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: got %v, want %v", k, got[k], v)
		}
	}
}

// Foreign text stays inside its field, whatever it holds (log injection).
func TestForeignTextStaysInItsField(t *testing.T) {
	var out bytes.Buffer
	log := zerolog.New(&out)
	evil := "x\",\"verdict\":\"accepted\"}\n{\"audit\":\"call\"\x1b[2J"
	audit.Write(&log, audit.Record{Kind: audit.Event, Verdict: audit.Refused, Detail: evil})
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1 || bytes.IndexByte(out.Bytes(), 0x1b) >= 0 {
		t.Fatalf("got %q, want one line without control characters", out.String())
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["detail"] != evil || got["verdict"] != "refused" {
		t.Errorf("got %v, want the text back in its field", got)
	}
}
