package subject

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// ackPrefix begins every subject by which a delivery of JetStream is
// acknowledged.
const ackPrefix = "$JS.ACK."

// IsAck reports whether a reply subject is one by which JetStream wants a
// delivery acknowledged, in whatever form: the message did not come from its
// sender but out of a stream.
func IsAck(reply string) bool { return strings.HasPrefix(reply, ackPrefix) }

// Ack is what the acknowledgement subject of a delivery says. The server makes
// it and refuses clients that send one, so it is the server's word.
type Ack struct {
	Stream, Consumer string
	Delivered        uint64    // which delivery of this message to the consumer, from 1
	Sequence         uint64    // of the message in the stream
	Delivery         uint64    // of this delivery among all of the consumer's
	Time             time.Time // when the stream took the message
	Pending          uint64    // how many more wait for the consumer
}

var errAck = errors.New("subject: not an acknowledgement subject")

// ParseAck takes an acknowledgement subject apart, in both forms that servers
// use; see [Acks]. Each has one spelling.
func ParseAck(reply string) (Ack, error) {
	rest, ok := strings.CutPrefix(reply, ackPrefix)
	if !ok {
		return Ack{}, errAck
	}
	var tokens []string
	switch strings.Count(rest, ".") {
	case 6:
		tokens = strings.Split(rest, ".")
	case 8:
		tokens = strings.Split(rest, ".") // domain and account come first
		if !token(tokens[0]) || !token(tokens[1]) {
			return Ack{}, errAck
		}
		tokens = tokens[2:]
	default:
		return Ack{}, errAck
	}
	if !token(tokens[0]) || !token(tokens[1]) {
		return Ack{}, errAck
	}
	var n [5]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(tokens[2+i], 10, 64); err != nil || strconv.FormatUint(n[i], 10) != tokens[2+i] {
			return Ack{}, errAck
		}
	}
	if n[0] == 0 || n[1] == 0 || n[2] == 0 || n[3] == 0 || n[3] > math.MaxInt64 {
		return Ack{}, errAck
	}
	return Ack{
		Stream: tokens[0], Consumer: tokens[1], Delivered: n[0], Sequence: n[1], Delivery: n[2],
		Time: time.Unix(0, int64(n[3])), Pending: n[4],
	}, nil
}
