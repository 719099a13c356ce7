package kubernetes_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// asWritten follows the README to the letter, up to what is put into the cluster.
func asWritten(t *testing.T) *operator {
	t.Helper()
	o := follow(t)
	for _, s := range []string{"", "The mesh", "What each may read"} {
		o.do(s)
	}
	return o
}

func certificate(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode([]byte(text))
	if b == nil {
		t.Fatal("no certificate")
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The names that Kubernetes gives are those that the commands put into certificates
// and configurations.
func TestNamesAgree(t *testing.T) {
	o := asWritten(t)
	set := natsSet(t)
	settings := o.object("sealmesh", "configmap", "sealmesh")["sealmesh.yaml"]
	for i := range int(*set.Spec.Replicas) {
		pod := fmt.Sprintf("%s-%d", set.Name, i)
		host := fmt.Sprintf("%s.%s.%s.svc", pod, set.Spec.ServiceName, set.Namespace)
		files := o.object(set.Namespace, "secret", "sealmesh-"+pod)
		if err := certificate(t, files["server.crt"]).VerifyHostname(host); err != nil {
			t.Error(err)
		}
		for _, line := range []string{`server_name: "` + pod + `"`, `client_advertise: "` + host + `:4222"`, `advertise: "` + host + `:6222"`, `listen: "0.0.0.0:4222"`, `listen: "0.0.0.0:6222"`} {
			if !strings.Contains(files["nats-server.conf"], line) {
				t.Errorf("nats-server.conf of %s has no %s", pod, line)
			}
		}
		if want := "tls://" + host + ":4222"; !strings.Contains(settings, want) {
			t.Errorf("sealmesh.yaml does not name %s", want)
		}
	}
	for _, want := range []int32{4222, 6222} {
		if !slices.ContainsFunc(set.Spec.Template.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == want }) {
			t.Errorf("the pods have no port %d", want)
		}
	}

	objects := manifests(t)
	service := only[*corev1.Service](t, objects, "sealmesh")
	host := service.Name + "." + service.Namespace + ".svc"
	if err := certificate(t, o.object("sealmesh", "secret", "sealmesh-server")["control.crt"]).VerifyHostname(host); err != nil {
		t.Error(err)
	}
	if want := fmt.Sprintf(`url: "https://%s:%d"`, host, service.Spec.Ports[0].Port); !strings.Contains(settings, want) {
		t.Errorf("sealmesh.yaml has no %s", want)
	}
	server := only[*appsv1.StatefulSet](t, objects, "sealmesh-server")
	port := server.Spec.Template.Spec.Containers[0].Ports[0]
	if port.Name != service.Spec.Ports[0].TargetPort.String() || !strings.Contains(settings, fmt.Sprintf(`listen: "0.0.0.0:%d"`, port.ContainerPort)) {
		t.Errorf("the control plane does not listen on %+v", port)
	}
	for _, want := range []string{`state: "/var/lib/sealmesh"`, `issuer: "https://kubernetes.default.svc.cluster.local"`, `ca_file: "cluster-ca.crt"`} {
		if strings.Count(settings, want) != 1 {
			t.Errorf("sealmesh.yaml has %d lines with %s, want one", strings.Count(settings, want), want)
		}
	}
}

// moved are the lines of nats-server.conf that name files.
var moved = regexp.MustCompile(`^\s*(cert_file|key_file|ca_file|store_dir):\s*"([^"]*)"$`)

// What the servers read is what init wrote but for where files are. Anything else would
// be a mesh with another border.
func TestConfigurationIsThatOfInit(t *testing.T) {
	o := asWritten(t)
	for i := range 3 {
		name := fmt.Sprintf("nats-%d", i)
		before := strings.Split(read(t, filepath.Join(o.dir, "mesh", "nats", name, "nats-server.conf")), "\n")
		after := strings.Split(o.object("sealmesh", "secret", "sealmesh-"+name)["nats-server.conf"], "\n")
		if n := len(before); len(after) != n+1 || after[n-1] != `http: "127.0.0.1:8222"` {
			t.Fatalf("%s: got %d lines, want one more than %d, for monitoring", name, len(after), n)
		}
		n := 0
		for j, line := range before[:len(before)-1] {
			m, got := moved.FindStringSubmatch(line), after[j]
			if m == nil {
				if got != line {
					t.Errorf("%s: %q became %q", name, line, got)
				}
				continue
			}
			n++
			want := "/data"
			if m[1] != "store_dir" {
				want = "/etc/sealmesh/" + filepath.Base(m[2])
			}
			if got != strings.Replace(line, m[2], want, 1) {
				t.Errorf("%s: %q became %q, want %s there", name, line, got, want)
			}
		}
		if n != 7 {
			t.Errorf("%s: %d lines name files, want 7", name, n)
		}
	}
}

// The cluster gets what runs there and nothing that is to be kept out of it.
func TestWhatIsInTheCluster(t *testing.T) {
	o := asWritten(t)
	var secrets []string
	for _, dir := range []string{"root", "agents"} {
		err := filepath.WalkDir(filepath.Join(o.dir, "mesh", dir), func(path string, d os.DirEntry, err error) error {
			if info, e := d.Info(); err == nil && e == nil && d.Type().IsRegular() && info.Mode().Perm() == 0o600 {
				secrets = append(secrets, read(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(secrets) < 6 {
		t.Fatalf("got %d secrets that stay outside, want those of root/ and of the administrator", len(secrets))
	}
	n := 0
	err := filepath.WalkDir(o.cluster, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
			if slices.Contains(secrets, read(t, path)) {
				t.Errorf("%s is in the cluster", path)
			}
		}
		return err
	})
	if err != nil || n < 30 {
		t.Fatalf("looked at %d files: %v", n, err)
	}
	for _, text := range o.object("sealmesh", "configmap", "sealmesh") {
		if strings.Contains(text, "PRIVATE KEY") {
			t.Error("a key is in the configuration")
		}
	}
}
