package wire

// StoredRequest asks whether what is stored of durable topics under a sequence is
// the event of this topic that the asking instance signed with this nonce.
type StoredRequest struct {
	Topic    string `json:"topic"`
	Sequence uint64 `json:"sequence"`
	Nonce    string `json:"nonce"`
}

// StoredResponse is the answer, which says nothing else about what is stored.
type StoredResponse struct {
	Own bool `json:"own"`
}
