package gate

import (
	"encoding/json"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// maxPerSubject is the server's code for a second write to a subject of a
// stream that keeps one message each and discards new ones.
const maxPerSubject = 10077

// parseBurn reads the stream's answer to the write of a nonce. Only a plain
// acknowledgement by the right stream is a first use; everything that is not
// understood is refused.
func parseBurn(data []byte) error {
	var ack struct {
		Stream    string `json:"stream"`
		Seq       uint64 `json:"seq"`
		Duplicate bool   `json:"duplicate"`
		Error     *struct {
			ErrCode int    `json:"err_code"`
			Text    string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return denial.New(denial.ReplayUnavailable, "answer of the replay store does not parse")
	}
	switch {
	case ack.Error != nil && ack.Error.ErrCode == maxPerSubject, ack.Duplicate:
		return denial.New(denial.Replayed, "nonce was used before")
	case ack.Error != nil:
		return denial.New(denial.ReplayUnavailable, "replay store: %.120q (%d)", ack.Error.Text, ack.Error.ErrCode)
	case ack.Stream != subject.KVStream(ReplayBucket) || ack.Seq == 0:
		return denial.New(denial.ReplayUnavailable, "answer is not the replay store's")
	}
	return nil
}
