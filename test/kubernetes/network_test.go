package kubernetes_test

import (
	"fmt"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// network judges connections as the network policies say: a pod that some policy
// selects for a direction may do in it what one of these allows, and nothing else.
type network struct {
	t        *testing.T
	policies []*networkingv1.NetworkPolicy
}

func (n network) matches(s *metav1.LabelSelector, set map[string]string) bool {
	n.t.Helper()
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		n.t.Fatal(err)
	}
	return sel.Matches(labels.Set(set))
}

// peer reports whether a pod is one of those that a rule of a policy names.
func (n network) peer(namespace string, peers []networkingv1.NetworkPolicyPeer, p template) bool {
	return slices.ContainsFunc(peers, func(r networkingv1.NetworkPolicyPeer) bool {
		if r.IPBlock != nil {
			return false // what is outside: no rule of ours is to let pods through by address
		}
		if r.NamespaceSelector == nil && p.namespace != namespace ||
			r.NamespaceSelector != nil && !n.matches(r.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": p.namespace}) {
			return false
		}
		return r.PodSelector == nil || n.matches(r.PodSelector, p.labels)
	})
}

func ported(ports []networkingv1.NetworkPolicyPort, port int) bool {
	return slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.IntValue() == port })
}

func (n network) lets(from, to template, port int) bool {
	out, in := true, true
	outs, ins := 0, 0
	for _, p := range n.policies {
		if p.Namespace == from.namespace && n.matches(&p.Spec.PodSelector, from.labels) && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			out = false
			for _, r := range p.Spec.Egress {
				if n.peer(p.Namespace, r.To, to) && ported(r.Ports, port) {
					outs++
				}
			}
		}
		if p.Namespace == to.namespace && n.matches(&p.Spec.PodSelector, to.labels) && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
			in = false
			for _, r := range p.Spec.Ingress {
				if n.peer(p.Namespace, r.From, from) && ported(r.Ports, port) {
					ins++
				}
			}
		}
	}
	return (out || outs > 0) && (in || ins > 0)
}

// Who has to talk to whom may, and nobody else: above all, nobody but a nats-server
// gets near the port of the routes.
func TestNetworkPolicies(t *testing.T) {
	n := network{t: t}
	pods := map[string]template{
		"dns":      {name: "dns", namespace: "kube-system", labels: map[string]string{"k8s-app": "kube-dns"}},
		"stranger": {name: "stranger", namespace: "prod", labels: map[string]string{"app.kubernetes.io/name": "nats", "app.kubernetes.io/component": "nats"}},
	}
	objects := manifests(t)
	for _, o := range objects {
		if p, ok := o.(*networkingv1.NetworkPolicy); ok {
			n.policies = append(n.policies, p)
		}
	}
	for _, p := range templates(t, objects) {
		pods[p.name] = p
	}
	wanted := []string{
		"nats nats 6222", "sealmesh-server nats 4222",
		"operator nats 4222", "operator sealmesh-server 4223",
		"reader nats 4222", "reader sealmesh-server 4223",
		"stranger nats 4222", "stranger sealmesh-server 4223",
		"nats dns 53", "sealmesh-server dns 53", "operator dns 53", "reader dns 53",
	}
	var got []string
	for _, from := range pods {
		for _, to := range pods {
			if from.name == "dns" || to.name == "stranger" || from.name == "stranger" && to.name == "dns" {
				continue // not ours to say
			}
			for _, port := range []int{53, 4222, 4223, 6222, 8222} {
				if n.lets(from, to, port) {
					got = append(got, fmt.Sprintf("%s %s %d", from.name, to.name, port))
				}
			}
		}
	}
	slices.Sort(wanted)
	slices.Sort(got)
	if !slices.Equal(got, wanted) {
		t.Errorf("got %q, want %q", got, wanted)
	}
}
