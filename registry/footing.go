package registry

import (
	"encoding/json"

	"github.com/sealmesh/sealmesh/internal/jws"
)

// Footing is a digest of what a grant rests on beside the chains: plain rights
// and durable subscriptions. A client whose connection was let in on another one
// than its record has now replaces it; of chains it knows by their own digests.
func (a *Agent) Footing() string {
	f := struct {
		Plain    Plain    `json:"plain"`
		Durables []string `json:"durables"` // names: of topics a grant says nothing
	}{Plain: a.Rights.Plain, Durables: []string{}}
	for _, d := range a.Durables {
		f.Durables = append(f.Durables, d.Name)
	}
	text, err := json.Marshal(f)
	if err != nil {
		return "" // strings always encode
	}
	return jws.Digest(string(text))
}
