package kubernetes_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// values are the keys of the chart that nats-values.yaml sets, as values.yaml of the
// chart (1.2) documents them. Another key is an error: the model would not know what
// it does.
type values struct {
	FullnameOverride string `json:"fullnameOverride"`
	Config           struct {
		Cluster struct {
			Enabled  bool  `json:"enabled"`
			Replicas int32 `json:"replicas"`
		} `json:"cluster"`
		JetStream struct {
			Enabled   bool `json:"enabled"`
			FileStore struct {
				Dir string `json:"dir"`
				PVC struct {
					Size string `json:"size"`
				} `json:"pvc"`
			} `json:"fileStore"`
		} `json:"jetstream"`
		Monitor enabled `json:"monitor"`
	} `json:"config"`
	Container struct {
		Image struct {
			Tag string `json:"tag"`
		} `json:"image"`
		change
	} `json:"container"`
	PodTemplate struct {
		Spread map[string]map[string]any `json:"topologySpreadConstraints"`
		change
	} `json:"podTemplate"`
	Reloader enabled `json:"reloader"`
	Service  enabled `json:"service"`
	NATSBox  enabled `json:"natsBox"`
}

type enabled struct {
	Enabled *bool `json:"enabled"`
}

// change is how the chart has everything overridden: objects are merged key by key,
// lists and all else replaced, and a JSON patch comes after that.
type change struct {
	Merge map[string]any  `json:"merge"`
	Patch json.RawMessage `json:"patch"`
}

func (c change) apply(t *testing.T, to map[string]any) map[string]any {
	t.Helper()
	merge(to, c.Merge)
	if c.Patch == nil {
		return to
	}
	doc, err := json.Marshal(to)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(c.Patch)
	if err != nil {
		t.Fatal(err)
	}
	if doc, err = patch.Apply(doc); err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(doc, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func merge(to, from map[string]any) {
	for k, v := range from {
		a, isMap := to[k].(map[string]any)
		b, also := v.(map[string]any)
		if isMap && also {
			merge(a, b)
			continue
		}
		to[k] = v
	}
}

// chart is what the chart makes of the values: rendered by Helm where -rendered names
// it, else by a model of what the chart is documented to do with the few keys that are
// used. The model has the StatefulSet alone, and of it what the values touch.
func chart(t *testing.T) []runtime.Object {
	t.Helper()
	if *rendered != "" {
		objects := decode(t, *rendered)
		for _, o := range objects {
			if m, ok := o.(metav1.Object); ok && m.GetNamespace() == "" {
				m.SetNamespace("sealmesh") // as helm install does
			}
		}
		return objects
	}
	text, err := os.ReadFile(filepath.Join(example, "nats-values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var v values
	if text, err = yaml.YAMLToJSONStrict(text); err != nil {
		t.Fatalf("nats-values.yaml: %v", err)
	}
	// Helm tells upper from lower case, and what it does not know it passes over.
	if strict, err := kjson.UnmarshalStrict(text, &v); err != nil || strict != nil {
		t.Fatalf("nats-values.yaml: %v%v", err, strict)
	}
	// What the chart has on by itself is off only where it is said.
	for name, e := range map[string]enabled{"config.monitor": v.Config.Monitor, "reloader": v.Reloader, "service": v.Service, "natsBox": v.NATSBox} {
		if e.Enabled == nil || *e.Enabled {
			t.Fatalf("nats-values.yaml: %s is on, which the model does not know", name)
		}
	}
	if !v.Config.Cluster.Enabled || !v.Config.JetStream.Enabled {
		t.Fatal("nats-values.yaml: cluster or jetstream is off")
	}
	name, disk := v.FullnameOverride, v.FullnameOverride+"-js"
	labels := map[string]any{"app.kubernetes.io/name": "nats", "app.kubernetes.io/instance": "nats", "app.kubernetes.io/component": "nats"}
	container := v.Container.apply(t, map[string]any{
		"name": "nats", "image": "nats:" + v.Container.Image.Tag, "args": []any{"--config", "/etc/nats-config/nats.conf"},
		"ports": []any{map[string]any{"name": "nats", "containerPort": 4222}, map[string]any{"name": "cluster", "containerPort": 6222}},
		"env": []any{
			map[string]any{"name": "POD_NAME", "valueFrom": map[string]any{"fieldRef": map[string]any{"fieldPath": "metadata.name"}}},
			map[string]any{"name": "SERVER_NAME", "value": "$(POD_NAME)"},
		},
		"lifecycle": map[string]any{"preStop": map[string]any{"exec": map[string]any{"command": []any{"nats-server", "-sl=ldm=/var/run/nats.pid"}}}},
		"volumeMounts": []any{
			map[string]any{"name": "config", "mountPath": "/etc/nats-config"},
			map[string]any{"name": disk, "mountPath": v.Config.JetStream.FileStore.Dir},
		},
	})
	var spread []any
	for key, c := range v.PodTemplate.Spread {
		c = maps.Clone(c)
		c["topologyKey"], c["labelSelector"] = key, map[string]any{"matchLabels": labels}
		spread = append(spread, c)
	}
	pod := v.PodTemplate.apply(t, map[string]any{
		"metadata": map[string]any{"labels": labels},
		"spec": map[string]any{
			"containers": []any{container}, "enableServiceLinks": false, "topologySpreadConstraints": spread,
			"volumes": []any{map[string]any{"name": "config", "configMap": map[string]any{"name": name + "-config"}}},
		},
	})
	set, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": map[string]any{"name": name, "labels": labels, "namespace": "sealmesh"},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": labels}, "replicas": v.Config.Cluster.Replicas, "serviceName": name + "-headless",
			"podManagementPolicy": "Parallel", "template": pod,
			"volumeClaimTemplates": []any{map[string]any{
				"metadata": map[string]any{"name": disk},
				"spec": map[string]any{
					"accessModes": []any{"ReadWriteOnce"},
					"resources":   map[string]any{"requests": map[string]any{"storage": v.Config.JetStream.FileStore.PVC.Size}},
				},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := strict.Decode(set, nil, nil)
	if err != nil {
		t.Fatalf("nats-values.yaml: %v", err)
	}
	return []runtime.Object{o.(*appsv1.StatefulSet)}
}

// natsSet is the StatefulSet of the nats-servers.
func natsSet(t *testing.T) *appsv1.StatefulSet {
	t.Helper()
	return only[*appsv1.StatefulSet](t, chart(t), "nats")
}
