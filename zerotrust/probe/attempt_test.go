package probe

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		printed string
		want    Attempt
		says    string // of the error
	}{
		{`{"target":"t:1","address":"10.0.0.1:1","localPort":4711,"connected":true,"answer":"hi","seconds":0.25}` + "\n",
			Attempt{Target: "t:1", Address: "10.0.0.1:1", LocalPort: 4711, Connected: true, Answer: "hi", Seconds: 0.25}, ""},
		{`{"target":"t:1","address":"10.0.0.1:1","localPort":4711,"connected":false,"error":"i/o timeout","kind":"timeout","seconds":4}`,
			Attempt{Target: "t:1", Address: "10.0.0.1:1", LocalPort: 4711, Error: "i/o timeout", Kind: KindTimeout, Seconds: 4}, ""},
		{`{"target":"t:1","error":"no such host","kind":"name"}`, Attempt{Target: "t:1", Error: "no such host", Kind: KindName}, ""},
		{`{"target":"t:1","later":true,"error":"no route","kind":"other"}`, Attempt{Target: "t:1", Error: "no route", Kind: KindOther}, ""},
		{``, Attempt{}, "unexpected end"},
		{`{}`, Attempt{}, "not of a try of t:1"},
		{`{"target":"u:1","error":"x","kind":"timeout"}`, Attempt{}, "not of a try of t:1"},
		{`{"target":"t:1"}`, Attempt{}, "neither that it connected nor why not"},
		{`{"target":"t:1","error":"x"}`, Attempt{}, "neither"},
		{`{"target":"t:1","kind":"timeout"}`, Attempt{}, "neither"},
		{`{"target":"t:1","error":"x","kind":"fun"}`, Attempt{}, "neither"},
		{`{"target":"t:1","address":"10.0.0.1:1","localPort":1,"connected":true,"error":"x","kind":"timeout"}`, Attempt{}, "neither"},
		{`{"target":"t:1","connected":true}`, Attempt{}, "does not say from and to where"},
		{`{"target":"t:1","error":"x","kind":"timeout"}`, Attempt{}, "does not say from and to where"},
		{`{"target":"t:1","error":"x","kind":"name"}{}`, Attempt{}, "after top-level value"},
		{`{"target":"dns://t","connected":true,"addresses":["10.0.0.1"],"seconds":0.5}`,
			Attempt{Target: "dns://t", Connected: true, Addresses: []string{"10.0.0.1"}, Seconds: 0.5}, ""},
		{`{"target":"dns://t","error":"no such host","kind":"name"}`, Attempt{Target: "dns://t", Error: "no such host", Kind: KindName}, ""},
		{`{"target":"dns://t","connected":true}`, Attempt{}, "neither what the name stands for"},
	} {
		target := "t:1"
		if strings.Contains(tt.printed, "dns://t") {
			target = "dns://t"
		}
		got, err := Parse(tt.printed, target)
		switch {
		case tt.says == "" && (err != nil || !reflect.DeepEqual(got, tt.want)):
			t.Errorf("%s: %+v, %v", tt.printed, got, err)
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%s: error %v, want one that says %q", tt.printed, err, tt.says)
		}
	}
}

func TestCheckTarget(t *testing.T) {
	for target, ok := range map[string]bool{
		"db:5432": true, "udp://db:53": true, "udp://db": false, "tcp://db:53": false, "db.shop.svc:1": true, "10.0.0.1:65535": true, "[::1]:80": true,
		"tls://db:5432": true, "http://web:80": true, "http://web:80/live": true, "http://web/live": false, "dns://db": true, "dns://db:53": false, "dns://": false,
		"": false, "db": false, ":80": false, "db:": false, "db:0": false, "db:65536": false, "db:http": false, "::1:80": false,
	} {
		if err := checkTarget(target); (err == nil) != ok {
			t.Errorf("%q: %v", target, err)
		}
	}
}
