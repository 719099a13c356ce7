package wire

import "time"

// KeysSchema is that of [KeyList].
const KeysSchema = "sealmesh.keys/v1"

// KeyList is the answer of keys: every key that the mesh as such has, in its public
// form. Nothing in it is secret.
type KeyList struct {
	Schema string    `json:"schema"` // sealmesh.keys/v1
	Time   time.Time `json:"time"`
	Keys   []KeyView `json:"keys"`
	// Documents and Unsigned are how many documents of the registry there are, and how
	// many of them an earlier records key signed; -1 before they were counted.
	Documents int `json:"documents"`
	Unsigned  int `json:"unsigned"`
	// Leaving is set while keys that leaked still count, because something rests on
	// them.
	Leaving bool `json:"leaving"`
	// Problem is why no more could be signed anew; empty where nothing is wrong.
	Problem string `json:"problem,omitempty"`
	// Servers are the nats-servers that are known, with the keys by which they asked
	// last whether somebody may connect.
	Servers []KeyServer `json:"servers"`
}

// KeyView is one key.
type KeyView struct {
	Name      string     `json:"name"`    // "authority root", "records", "tokens", "issuer", "xkey", "service", "system"
	Public    string     `json:"public"`  // nkey
	Purpose   string     `json:"purpose"` // what it is for
	InUse     bool       `json:"in_use"`  // what is made now is made with it
	Leaving   bool       `json:"leaving,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"` // of a certified key
	NotAfter  *time.Time `json:"not_after,omitempty"`
}

// KeyServer says which keys of the callout a nats-server has in its configuration.
type KeyServer struct {
	Server string `json:"server"` // public server key
	Name   string `json:"name,omitempty"`
	Issuer string `json:"issuer"` // empty where it has not asked yet
	XKey   string `json:"xkey"`
}
