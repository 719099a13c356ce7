package heartbeat_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/limits"
)

func ExampleBeat() {
	var s heartbeat.Session
	copy(s[:], "a fixed session.")
	b := heartbeat.Beat{
		Agent: agentid.Require("reader"), Instance: agentid.InstanceOf("UEXAMPLE"), Session: s,
		Epoch: "3.1", Sequence: 7, State: heartbeat.Up, InFlight: 2, Client: "sealmesh-go/0.1.0",
	}
	text, err := b.Encode()
	fmt.Println(string(text), err)
	_, err = heartbeat.Decode([]byte(strings.Replace(string(text), `"epoch":"3.1"`, `"epoch":"03.1"`, 1)))
	fmt.Println(err)
	// Output:
	// {"agent":"reader","instance":"4jywq4wf","session":"YSBmaXhlZCBzZXNzaW9uLg","epoch":"3.1","sequence":7,"state":"up","in_flight":2,"client":"sealmesh-go/0.1.0"} <nil>
	// bad-input: epoch "03.1" is not two numbers joined by a dot
}

func encoded(t testing.TB) string {
	t.Helper()
	b, err := speak(reader, pod, "3.1").beat(heartbeat.Up).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDecodeRefusesEveryOtherSpelling(t *testing.T) {
	good := encoded(t)
	if _, err := heartbeat.Decode([]byte(good)); err != nil {
		t.Fatalf("Decode of what Encode gave: %v", err)
	}
	swap := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("the test is stale: %s has no %s", good, from)
		}
		return strings.Replace(good, from, to, 1)
	}
	for what, text := range map[string]string{
		"empty":                 "",
		"null":                  "null",
		"array":                 "[" + good + "]",
		"space in front":        " " + good,
		"line break behind":     good + "\n",
		"second document":       good + good,
		"unknown member":        swap(`"client":`, `"x":1,"client":`),
		"doubled member":        swap(`"epoch":"3.1"`, `"epoch":"3.1","epoch":"3.1"`),
		"missing member":        swap(`"in_flight":0,`, ``),
		"other case":            swap(`"epoch"`, `"Epoch"`),
		"other order":           swap(`"sequence":1,"state":"up"`, `"state":"up","sequence":1`),
		"escaped letter":        swap(`"up"`, `"\u0075p"`),
		"float":                 swap(`"sequence":1`, `"sequence":1.0`),
		"sequence 0":            swap(`"sequence":1`, `"sequence":0`),
		"sequence 2^53":         swap(`"sequence":1`, `"sequence":9007199254740992`),
		"negative in flight":    swap(`"in_flight":0`, `"in_flight":-1`),
		"unknown state":         swap(`"up"`, `"down"`),
		"no state":              swap(`"up"`, `""`),
		"no agent":              swap(`"reader"`, `""`),
		"wildcard agent":        swap(`"reader"`, `"*"`),
		"short instance":        swap(pod.String(), pod.String()[:7]),
		"zero session":          swap(`"session":"`, `"session":"AAAAAAAAAAAAAAAAAAAAAA","session":"`),
		"epoch with zero":       swap(`"3.1"`, `"3.01"`),
		"epoch with sign":       swap(`"3.1"`, `"+3.1"`),
		"epoch of one part":     swap(`"3.1"`, `"3"`),
		"epoch of three parts":  swap(`"3.1"`, `"3.1.1"`),
		"epoch past 2^53":       swap(`"3.1"`, `"9007199254740992.1"`),
		"escape code in client": swap(`"test/1"`, `"\u001b[2J"`),
		"not ASCII in client":   swap(`"test/1"`, `"tést/1"`),
		"client too long":       swap(`"test/1"`, `"`+strings.Repeat("x", limits.ClientVersion+1)+`"`),
	} {
		if b, err := heartbeat.Decode([]byte(text)); denial.Of(err) != denial.BadInput {
			t.Errorf("%s: Decode(%q) = %+v, %v, want %s", what, text, b, err, denial.BadInput)
		}
	}
	long := swap(`"test/1"`, `"`+strings.Repeat("x", limits.Beat)+`"`)
	if _, err := heartbeat.Decode([]byte(long)); denial.Of(err) != denial.TooLarge {
		t.Errorf("Decode of %d bytes: %v, want %s", len(long), err, denial.TooLarge)
	}
}

func TestLongestBeatFits(t *testing.T) {
	id := agentid.Require(strings.Repeat("a", agentid.MaxLen))
	b := heartbeat.Beat{Agent: id, Instance: pod, Session: heartbeat.NewSession(),
		Epoch: "9007199254740991.9007199254740991", Sequence: 1<<53 - 1, State: heartbeat.Leaving,
		InFlight: 1<<32 - 1, Client: strings.Repeat(`"`, limits.ClientVersion)}
	text, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := heartbeat.Decode(text)
	if err != nil || got != b {
		t.Errorf("Decode(%s) = %+v, %v, want %+v", text, got, err, b)
	}
}

func TestParsePolicy(t *testing.T) {
	for _, s := range []string{"session", "always", "none"} {
		if p, err := heartbeat.ParsePolicy(s); err != nil || string(p) != s {
			t.Errorf("ParsePolicy(%q) = %q, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "Session", " always", "all", "never"} {
		if p, err := heartbeat.ParsePolicy(s); denial.Of(err) != denial.BadInput || p != "" {
			t.Errorf("ParsePolicy(%q) = %q, %v, want a refusal", s, p, err)
		}
	}
}

// What Decode takes is what Encode gives for it, byte for byte.
func FuzzDecode(f *testing.F) {
	good := encoded(f)
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, `"up"`, `"leaving"`, 1)))
	f.Add([]byte(strings.Replace(good, `"3.1"`, `"0.0"`, 1)))
	f.Add([]byte(strings.Replace(good, `:`, ` :`, 1)))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := heartbeat.Decode(data)
		if err != nil {
			if r := denial.Of(err); r != denial.BadInput && r != denial.TooLarge {
				t.Fatalf("Decode(%q): %v is neither %s nor %s", data, err, denial.BadInput, denial.TooLarge)
			}
			return
		}
		again, err := b.Encode()
		if err != nil || string(again) != string(data) {
			t.Fatalf("Decode(%q) encodes to %q, %v", data, again, err)
		}
	})
}
