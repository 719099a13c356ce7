package kubernetes_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
)

var rendered = flag.String("rendered", "", "what helm template makes of nats-values.yaml, in place of the model of the chart")

// strict reads one document of the API versions that the manifests use; an unknown or
// doubled field is an error.
var strict = func() runtime.Serializer {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
}()

// decode reads all documents of one file.
func decode(t *testing.T, path string) []runtime.Object {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []runtime.Object
	for r := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if !slices.ContainsFunc(strings.Split(string(doc), "\n"), func(l string) bool {
			l = strings.TrimSpace(l)
			return l != "" && !strings.HasPrefix(l, "#") && l != "---"
		}) {
			continue // nothing but comments
		}
		o, _, err := strict.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%s, document %d: %v", path, len(out)+1, err)
		}
		out = append(out, o)
	}
}

// manifests are the objects of all files that kubectl is given, and those of the
// chart.
func manifests(t *testing.T) []runtime.Object {
	t.Helper()
	var out []runtime.Object
	for _, name := range []string{"server.yaml", "agent.yaml", "issuer.yaml", "operator.yaml"} {
		objects := decode(t, filepath.Join(example, name))
		if len(objects) == 0 {
			t.Fatalf("%s has nothing in it", name)
		}
		out = append(out, objects...)
	}
	return append(out, chart(t)...)
}

// only returns the one object of its type and name.
func only[T interface {
	runtime.Object
	GetName() string
}](t *testing.T, objects []runtime.Object, name string) T {
	t.Helper()
	var found []T
	for _, o := range objects {
		if o, ok := o.(T); ok && o.GetName() == name {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		t.Fatalf("got %d of %T %s, want one", len(found), *new(T), name)
	}
	return found[0]
}

func TestManifestsAreOfTheAPI(t *testing.T) {
	if n := len(manifests(t)); n < 12 {
		t.Errorf("got %d objects, want all of them", n)
	}
}

// The decoder is one that finds something.
func TestUnknownFieldsAreFound(t *testing.T) {
	for name, text := range map[string]string{
		"unknown": "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {port: 1}\n",
		"doubled": "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: ClusterIP, type: ClusterIP}\n",
		"no kind": "apiVersion: v1\nkind: Servce\nmetadata: {name: x}\n",
	} {
		if _, _, err := strict.Decode([]byte(text), nil, nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if _, _, err := strict.Decode([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n"), nil, nil); err != nil {
		t.Error(err)
	}
}
