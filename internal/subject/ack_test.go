package subject_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/subject"
)

const (
	ackTail  = ".3.41.57.1795408791123456789.7"
	oldAck   = "$JS.ACK.MESH_EVENTS.alice_inbox" + ackTail
	newAck   = "$JS.ACK.hub.ABCDEFGH.MESH_EVENTS.alice_inbox" + ackTail
	noDomain = "$JS.ACK._.ABCDEFGH.MESH_EVENTS.alice_inbox" + ackTail
)

func TestParseAck(t *testing.T) {
	want := subject.Ack{
		Stream: subject.EventsStream, Consumer: subject.Consumer(alice, "inbox"),
		Delivered: 3, Sequence: 41, Delivery: 57, Time: time.Unix(0, 1795408791123456789), Pending: 7,
	}
	for _, text := range []string{oldAck, newAck, noDomain} {
		if got, err := subject.ParseAck(text); err != nil || got != want {
			t.Errorf("ParseAck(%s) = %+v, %v, want %+v", text, got, err, want)
		}
		if !subject.IsAck(text) {
			t.Errorf("%s is not taken for an acknowledgement", text)
		}
		granted := false
		for _, grant := range subject.Acks(want.Consumer) {
			granted = granted || matches(grant, text)
		}
		if !granted {
			t.Errorf("the consumer's grant does not cover %s", text)
		}
	}
}

func TestParseAckRefuses(t *testing.T) {
	for _, text := range []string{
		"", "$JS.ACK", "$JS.ACK.", "$JS.ACKS.MESH_EVENTS.alice_inbox" + ackTail, "$js.ack.MESH_EVENTS.alice_inbox" + ackTail,
		"$JS.ACK.alice_inbox" + ackTail,                     // too few tokens
		"$JS.ACK.hub.MESH_EVENTS.alice_inbox" + ackTail,     // between the two forms
		"$JS.ACK.hub.A.B.MESH_EVENTS.alice_inbox" + ackTail, // too many
		oldAck + ".1", newAck + ".1", oldAck + ".", newAck + ".", // extended
		strings.Replace(oldAck, ".3.", ".03.", 1), strings.Replace(oldAck, ".3.", ".+3.", 1), strings.Replace(oldAck, ".3.", ".-3.", 1),
		strings.Replace(oldAck, ".3.", "..", 1), strings.Replace(oldAck, ".3.", ".*.", 1), strings.Replace(oldAck, ".3.", ".x.", 1),
		strings.Replace(oldAck, ".3.", ".0.", 1), strings.Replace(oldAck, ".41.", ".0.", 1), strings.Replace(oldAck, ".57.", ".0.", 1),
		strings.Replace(oldAck, ".41.", ".18446744073709551616.", 1),
		strings.Replace(oldAck, ".1795408791123456789.", ".9223372036854775808.", 1), strings.Replace(oldAck, ".1795408791123456789.", ".0.", 1),
		strings.Replace(oldAck, "alice_inbox", "alice inbox", 1), strings.Replace(oldAck, "alice_inbox", ">", 1),
		"_INBOX_alice_x.pull.1", "mesh.event.alice.news",
	} {
		if got, err := subject.ParseAck(text); err == nil {
			t.Errorf("ParseAck(%q) = %+v, want a refusal", text, got)
		}
	}
}

// Whatever parses is written in one of two ways, so an acknowledgement is one
// consumer's and no other's.
func FuzzParseAck(f *testing.F) {
	f.Add(oldAck)
	f.Add(newAck)
	f.Add("$JS.ACK.a.b.1.1.1.1.0")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := subject.ParseAck(text)
		if err != nil {
			return
		}
		tail := fmt.Sprintf("%s.%s.%d.%d.%d.%d.%d", a.Stream, a.Consumer, a.Delivered, a.Sequence, a.Delivery, a.Time.UnixNano(), a.Pending)
		if text != "$JS.ACK."+tail && (!strings.HasPrefix(text, "$JS.ACK.") || !strings.HasSuffix(text, "."+tail) || strings.Count(text, ".") != 10) {
			t.Fatalf("ParseAck(%q) = %+v", text, a)
		}
		if !subject.IsAck(text) {
			t.Fatalf("%q parses and is not taken for an acknowledgement", text)
		}
	})
}
