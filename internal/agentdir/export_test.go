package agentdir

// StopAfter has a replacement of key and certificate end after the step that writes
// the named file, as a crash does, until undo is called.
func StopAfter(name string, err error) (undo func()) {
	was := identityStep
	identityStep = func(step string) error {
		if step == name {
			return err
		}
		return nil
	}
	return func() { identityStep = was }
}

// HoldIdentity is what another process does that replaces key and certificate.
func HoldIdentity(path string) (release func(), err error) {
	unlock, _, err := lock(path+"/"+identityLock, lockFor)
	return unlock, err
}
