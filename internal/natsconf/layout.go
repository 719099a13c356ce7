package natsconf

import "github.com/sealmesh/sealmesh/internal/subject"

// Account is an account of the configuration and what crosses its border.
type Account struct {
	Name      string
	JetStream bool
	Exports   []Export
	Imports   []Import
}

// Export is what an account offers.
type Export struct {
	Subject  string
	Service  bool
	Many     bool     // a service with more than one answer to a request
	Accounts []string // to whom; empty is everybody
}

// Import is what an account takes from another: the messages of a stream, or a
// service, to which its own requests go.
type Import struct {
	From    string
	Subject string // in the exporting account
	To      string // here, where it is another
	Service bool
}

// Layout returns the accounts that agents and the control plane live in, as the
// configuration file lays them out, for whoever wants to prove what crosses.
func Layout(space subject.Space) []Account {
	v := view{Config{Space: space}}
	control := Account{Name: Control, JetStream: true}
	storage := Account{Name: Storage, JetStream: true}
	mesh := Account{Name: Mesh}
	// An account takes from another what that one offers to it.
	stream := func(from, into *Account, subj string) {
		from.Exports = append(from.Exports, Export{Subject: subj, Accounts: []string{into.Name}})
		into.Imports = append(into.Imports, Import{From: from.Name, Subject: subj})
	}
	service := func(from, into *Account, s Service, to string) {
		from.Exports = append(from.Exports, Export{Subject: s.Subject, Service: true, Many: s.Many, Accounts: []string{into.Name}})
		into.Imports = append(into.Imports, Import{From: from.Name, Subject: s.Subject, To: to, Service: true})
	}
	for _, s := range v.FromControl() {
		stream(&control, &mesh, s)
	}
	for _, s := range v.ToControl() {
		stream(&mesh, &control, s)
	}
	for _, s := range v.Reads() {
		service(&control, &mesh, Service{Subject: s}, "")
	}
	for _, a := range v.LeaderReads() {
		service(&control, &mesh, Service{Subject: a.Subject}, a.To)
	}
	for _, a := range v.Management() {
		service(&storage, &control, Service{Subject: a.Subject}, a.To)
	}
	service(&storage, &mesh, Service{Subject: v.Replay()}, "")
	control.Imports = append(control.Imports, Import{From: Storage, Subject: v.Replay(), Service: true})
	last := &storage.Exports[len(storage.Exports)-1]
	last.Accounts = []string{Control, Mesh}
	for _, s := range v.Stored() {
		service(&storage, &mesh, s, "")
	}
	return []Account{control, storage, mesh}
}
