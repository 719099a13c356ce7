package kubernetes_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// template is a pod as it is run, with what it was found in.
type template struct {
	name      string
	namespace string
	labels    map[string]string
	spec      corev1.PodSpec
	claims    []corev1.PersistentVolumeClaim
}

func templates(t *testing.T, objects []runtime.Object) []template {
	t.Helper()
	var out []template
	for _, o := range objects {
		switch o := o.(type) {
		case *appsv1.StatefulSet:
			out = append(out, template{o.Name, o.Namespace, o.Spec.Template.Labels, o.Spec.Template.Spec, o.Spec.VolumeClaimTemplates})
		case *appsv1.Deployment:
			out = append(out, template{o.Name, o.Namespace, o.Spec.Template.Labels, o.Spec.Template.Spec, nil})
		case *corev1.Pod:
			if o.Annotations["helm.sh/hook"] == "" { // the chart's own test
				out = append(out, template{o.Name, o.Namespace, o.Labels, o.Spec, nil})
			}
		}
	}
	return out
}

func (p template) containers() []corev1.Container {
	return slices.Concat(p.spec.InitContainers, p.spec.Containers)
}

func is(b *bool, want bool) bool { return b != nil && *b == want }

// problems says what a pod should not be.
func (p template) problems() []string {
	var out []string
	say := func(what string) { out = append(out, p.name+": "+what) }
	s := p.spec.SecurityContext
	switch {
	case s == nil:
		say("no security context")
	case !is(s.RunAsNonRoot, true) || s.RunAsUser == nil || *s.RunAsUser == 0 || s.RunAsGroup == nil || *s.RunAsGroup == 0:
		say("may run as root")
	case s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
		say("no seccomp profile")
	}
	if !is(p.spec.AutomountServiceAccountToken, false) {
		say("has a token for the API server")
	}
	if p.spec.HostNetwork || p.spec.HostPID || p.spec.HostIPC || is(p.spec.ShareProcessNamespace, true) {
		say("shares what is the host's or another container's")
	}
	for _, v := range p.spec.Volumes {
		switch {
		case v.HostPath != nil:
			say("volume " + v.Name + " is the host's")
		case v.EmptyDir != nil && v.EmptyDir.SizeLimit == nil:
			say("volume " + v.Name + " has no limit")
		}
		if v.Secret != nil && (v.Secret.DefaultMode == nil || *v.Secret.DefaultMode&0o037 != 0) {
			say("volume " + v.Name + " is open to others")
		}
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.Secret != nil }) &&
			(v.Projected.DefaultMode == nil || *v.Projected.DefaultMode&0o037 != 0) {
			say("volume " + v.Name + " is open to others")
		}
	}
	for _, c := range p.containers() {
		out = append(out, containerProblems(p.name+"/"+c.Name, c)...)
	}
	return out
}

// pinned is an image with a version of three numbers or a digest.
var pinned = regexp.MustCompile(`(:v?\d+\.\d+\.\d+[a-z0-9.-]*|@sha256:[0-9a-f]{64})$`)

func containerProblems(name string, c corev1.Container) []string {
	var out []string
	say := func(what string) { out = append(out, name+": "+what) }
	s := c.SecurityContext
	switch {
	case s == nil:
		say("no security context")
	case !is(s.AllowPrivilegeEscalation, false):
		say("may gain privileges")
	case !is(s.ReadOnlyRootFilesystem, true):
		say("may write to its image")
	case s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0:
		say("has capabilities of root")
	case is(s.Privileged, true), is(s.RunAsNonRoot, false), s.RunAsUser != nil && *s.RunAsUser == 0:
		say("may run as root")
	}
	if !pinned.MatchString(c.Image) {
		say("image " + c.Image + " is not pinned")
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
		say("resources are not set")
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			say("secret in the environment: " + e.Name)
		}
	}
	for _, e := range c.EnvFrom {
		if e.SecretRef != nil {
			say("secret in the environment: " + e.SecretRef.Name)
		}
	}
	for _, m := range c.VolumeMounts {
		if strings.HasPrefix(m.MountPath, "/etc/sealmesh") && !m.ReadOnly {
			say(m.MountPath + " can be written")
		}
	}
	return out
}

func TestPodsAreConfined(t *testing.T) {
	all := templates(t, manifests(t))
	if len(all) != 4 {
		t.Errorf("got %d pods, want nats, server, agent and operator", len(all))
	}
	for _, p := range all {
		for _, what := range p.problems() {
			t.Error(what)
		}
	}
}

// Each rule finds what breaks it, in a pod that is without fault otherwise.
func TestProblemsAreFound(t *testing.T) {
	yes, no, zero, wide := true, false, int64(0), int32(0o444)
	for want, spoil := range map[string]func(*corev1.PodSpec){
		"may run as root":                    func(p *corev1.PodSpec) { p.SecurityContext.RunAsUser = &zero },
		"no seccomp profile":                 func(p *corev1.PodSpec) { p.SecurityContext.SeccompProfile = nil },
		"no security context":                func(p *corev1.PodSpec) { p.SecurityContext = nil },
		"has a token for the API server":     func(p *corev1.PodSpec) { p.AutomountServiceAccountToken = nil },
		"shares what is the host's":          func(p *corev1.PodSpec) { p.HostNetwork = true },
		"volume keys is open to others":      func(p *corev1.PodSpec) { volume(p, "keys").Secret.DefaultMode = &wide },
		"volume mesh has no limit":           func(p *corev1.PodSpec) { volume(p, "mesh").EmptyDir.SizeLimit = nil },
		"server: may gain privileges":        func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.AllowPrivilegeEscalation = &yes },
		"server: may write to its image":     func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.ReadOnlyRootFilesystem = &no },
		"server: has capabilities of root":   func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.Capabilities.Drop = nil },
		"server: may run as root":            func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.RunAsUser = &zero },
		"files: no security context":         func(p *corev1.PodSpec) { p.InitContainers[0].SecurityContext = nil },
		"files: /etc/sealmesh/server can be": func(p *corev1.PodSpec) { p.InitContainers[0].VolumeMounts[0].ReadOnly = false },
		"image x:latest is not pinned":       func(p *corev1.PodSpec) { p.Containers[0].Image = "x:latest" },
		"resources are not set":              func(p *corev1.PodSpec) { p.Containers[0].Resources.Limits = nil },
		"secret in the environment: KEY": func(p *corev1.PodSpec) {
			p.Containers[0].Env = []corev1.EnvVar{{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}}}
		},
	} {
		p := templates(t, []runtime.Object{only[*appsv1.StatefulSet](t, decode(t, filepath.Join(example, "server.yaml")), "sealmesh-server")})[0]
		spoil(&p.spec)
		if got := p.problems(); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("got %q, want one with %q", got, want)
		}
	}
}

func volume(p *corev1.PodSpec, name string) *corev1.Volume {
	return &p.Volumes[slices.IndexFunc(p.Volumes, func(v corev1.Volume) bool { return v.Name == name })]
}

// What is mounted is there, and what is there is mounted.
func TestMountsHaveVolumes(t *testing.T) {
	for _, p := range templates(t, manifests(t)) {
		have := map[string]bool{}
		for _, v := range p.spec.Volumes {
			have[v.Name] = false
		}
		for _, c := range p.claims {
			have[c.Name] = false
		}
		for _, c := range p.containers() {
			for _, m := range c.VolumeMounts {
				if _, ok := have[m.Name]; !ok {
					t.Errorf("%s/%s mounts %s, which is no volume of the pod", p.name, c.Name, m.Name)
				}
				have[m.Name] = true
			}
		}
		for name, mounted := range have {
			if !mounted {
				t.Errorf("%s: nobody mounts %s", p.name, name)
			}
		}
	}
}

// What selects pods selects some.
func TestSelectorsMeetPods(t *testing.T) {
	objects := manifests(t)
	pods := templates(t, objects)
	meets := func(what, namespace string, s labels.Selector) {
		t.Helper()
		if s.Empty() || !slices.ContainsFunc(pods, func(p template) bool { return p.namespace == namespace && s.Matches(labels.Set(p.labels)) }) {
			t.Errorf("%s selects no pod", what)
		}
	}
	selector := func(s *metav1.LabelSelector) labels.Selector {
		t.Helper()
		out, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			meets("service "+o.Name, o.Namespace, labels.SelectorFromSet(o.Spec.Selector))
		case *policyv1.PodDisruptionBudget:
			meets("budget "+o.Name, o.Namespace, selector(o.Spec.Selector))
		case *networkingv1.NetworkPolicy:
			meets("policy "+o.Name, o.Namespace, selector(&o.Spec.PodSelector))
			if len(o.Spec.PolicyTypes) != 2 {
				t.Errorf("policy %s leaves a direction open", o.Name)
			}
			for _, r := range o.Spec.Ingress {
				if len(r.Ports) == 0 || len(r.From) == 0 {
					t.Errorf("policy %s lets in everybody or to every port", o.Name)
				}
				for _, from := range r.From {
					if from.PodSelector != nil && from.NamespaceSelector == nil {
						meets("policy "+o.Name+", from", o.Namespace, selector(from.PodSelector))
					}
				}
			}
			for _, r := range o.Spec.Egress {
				if len(r.Ports) == 0 || len(r.To) == 0 {
					t.Errorf("policy %s lets out to everybody or to every port", o.Name)
				}
			}
		case *appsv1.StatefulSet:
			if !selector(o.Spec.Selector).Matches(labels.Set(o.Spec.Template.Labels)) {
				t.Errorf("%s does not select its own pods", o.Name)
			}
		case *appsv1.Deployment:
			if !selector(o.Spec.Selector).Matches(labels.Set(o.Spec.Template.Labels)) {
				t.Errorf("%s does not select its own pods", o.Name)
			}
		}
	}
}

// No part of the mesh needs a right in the cluster. The one binding there is lets
// everybody read public keys, which the role allows and nothing else.
func TestRights(t *testing.T) {
	for _, o := range manifests(t) {
		switch o := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			if o.RoleRef.Kind != "ClusterRole" || o.RoleRef.Name != "system:service-account-issuer-discovery" ||
				len(o.Subjects) != 1 || o.Subjects[0].Kind != "Group" || o.Subjects[0].Name != "system:unauthenticated" {
				t.Errorf("%s binds %s to %v", o.Name, o.RoleRef.Name, o.Subjects)
			}
		case *rbacv1.Role, *rbacv1.RoleBinding, *rbacv1.ClusterRole:
			t.Errorf("%T is not needed", o)
		case *corev1.ServiceAccount:
			if !is(o.AutomountServiceAccountToken, false) {
				t.Errorf("account %s hands out tokens", o.Name)
			}
		}
	}
}

// A pod that is asked to go has the time that its program takes, and what may be away
// at once is one.
func TestDisruptions(t *testing.T) {
	set := natsSet(t)
	if s := set.Spec.Template.Spec.TerminationGracePeriodSeconds; s == nil || *s <= 120 {
		t.Error("nats-server takes two minutes to let its clients go")
	}
	server := only[*appsv1.StatefulSet](t, manifests(t), "sealmesh-server")
	for _, s := range []*appsv1.StatefulSet{set, server} {
		spread := s.Spec.Template.Spec.TopologySpreadConstraints
		if len(spread) != 1 || spread[0].TopologyKey != "kubernetes.io/hostname" || spread[0].MaxSkew != 1 || spread[0].WhenUnsatisfiable != corev1.DoNotSchedule {
			t.Errorf("%s: several may be on one node: %+v", s.Name, spread)
		}
	}
	b := only[*policyv1.PodDisruptionBudget](t, manifests(t), "sealmesh-server")
	if b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("budget: got %+v", b.Spec)
	}
	if *server.Spec.Replicas != 2 || *set.Spec.Replicas != 3 {
		t.Errorf("got %d control planes and %d nats-servers", *server.Spec.Replicas, *set.Spec.Replicas)
	}
}
