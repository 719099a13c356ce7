package subject

// Monitor is where the replicas of the control plane tell one another of a brake.
// It is of no class: it stays in the control plane's own account.
func (s Space) Monitor() string { return s.join("monitor") }
