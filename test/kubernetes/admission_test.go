package kubernetes_test

import (
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// The pods are let in by the strictest of Kubernetes' pod security standards, which
// the README has the namespaces enforce.
func TestPodsAreRestricted(t *testing.T) {
	judge, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	forbidden := func(p template) string {
		r := policy.AggregateCheckResults(judge.EvaluatePod(restricted, &metav1.ObjectMeta{Labels: p.labels}, &p.spec))
		return r.ForbiddenDetail()
	}
	for _, p := range templates(t, manifests(t)) {
		if why := forbidden(p); why != "" {
			t.Errorf("%s: %s", p.name, why)
		}
	}
	open := templates(t, []runtime.Object{only[*appsv1.StatefulSet](t, decode(t, filepath.Join(example, "server.yaml")), "sealmesh-server")})[0]
	open.spec.Containers[0].SecurityContext = nil
	if forbidden(open) == "" {
		t.Error("a container without a security context is let in")
	}
}
