package gate

import "encoding/json"

// StoreFailed is the server's code for a message that a stream did not store,
// such as a second one on a subject of a stream that keeps one each and discards
// new ones.
const StoreFailed = 10077

// PerSubject is what it says beside that code where the subject has all that it
// may have. The code alone stands for every failure to store: a stream that is
// full, and a disk that is.
const PerSubject = "maximum messages per subject exceeded"

// StoreAck is the answer of a stream to a message. Nobody signed it: it says what
// a broker wants to have believed.
type StoreAck struct {
	Stream    string      `json:"stream"`
	Seq       uint64      `json:"seq"`
	Duplicate bool        `json:"duplicate"`
	Error     *StoreError `json:"error"`
}

// StoreError is why a stream did not store a message.
type StoreError struct {
	Code int    `json:"err_code"`
	Text string `json:"description"`
}

// Full reports whether the subject has all that it may have.
func (e *StoreError) Full() bool { return e != nil && e.Code == StoreFailed && e.Text == PerSubject }

// ReadStoreAck reads an answer.
func ReadStoreAck(data []byte) (StoreAck, error) {
	var a StoreAck
	err := json.Unmarshal(data, &a)
	return a, err
}

// By reports whether that stream says that it has the message.
func (a StoreAck) By(stream string) bool {
	return a.Error == nil && a.Stream == stream && a.Seq != 0
}
