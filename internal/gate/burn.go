package gate

import (
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// parseBurn reads the stream's answer to the write of a nonce. Only a plain
// acknowledgement by the right stream is a first use; everything that is not
// understood is refused.
func parseBurn(data []byte) error {
	ack, err := ReadStoreAck(data)
	if err != nil {
		return denial.New(denial.ReplayUnavailable, "answer of the replay store does not parse")
	}
	switch {
	case ack.Error != nil && ack.Error.Code == StoreFailed, ack.Duplicate:
		return denial.New(denial.Replayed, "nonce was used before")
	case ack.Error != nil:
		return denial.New(denial.ReplayUnavailable, "replay store: %.120q (%d)", ack.Error.Text, ack.Error.Code)
	case !ack.By(subject.KVStream(ReplayBucket)):
		return denial.New(denial.ReplayUnavailable, "answer is not the replay store's")
	}
	return nil
}
