package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidewire/tidewire/broker"
)

// metricsHandler serves the broker's metrics, and those of the Go runtime and the
// process, in the formats of Prometheus.
func metricsHandler(b *broker.Broker) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		&collector{broker: b, metrics: newMetrics(), dropped: droppedDesc()},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// metric is one number of broker.Stats.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(broker.Stats) float64
}

func newMetrics() []metric {
	gauge := func(name, help string, value func(broker.Stats) int64) metric {
		return metric{
			prometheus.NewDesc("tidewire_"+name, help, nil, nil), prometheus.GaugeValue,
			func(s broker.Stats) float64 { return float64(value(s)) },
		}
	}
	counter := func(name, help string, value func(broker.Stats) uint64) metric {
		return metric{
			prometheus.NewDesc("tidewire_"+name+"_total", help, nil, nil), prometheus.CounterValue,
			func(s broker.Stats) float64 { return float64(value(s)) },
		}
	}
	return []metric{
		gauge("sessions", "Sessions that have been welcomed and have not ended.", func(s broker.Stats) int64 { return s.Sessions }),
		gauge("subscriptions", "Subscriptions of all sessions.", func(s broker.Stats) int64 { return s.Subscriptions }),
		gauge("publications", "Publication streams of all sessions.", func(s broker.Stats) int64 { return s.Publications }),
		gauge("topics", "Topics that are kept.", func(s broker.Stats) int64 { return s.Topics }),
		gauge("queued_bytes", "Bytes of frames that wait for subscriptions, each frame counted once a subscription.", func(s broker.Stats) int64 { return s.QueuedBytes }),

		counter("sessions_welcomed", "Sessions that have been welcomed.", func(s broker.Stats) uint64 { return s.SessionsTotal }),
		counter("sessions_refused", "Sessions that ended before they were welcomed: refused, timed out or lost.", func(s broker.Stats) uint64 { return s.SessionsRefused }),
		counter("messages_published", "Messages that were given their place in a topic.", func(s broker.Stats) uint64 { return s.Published }),
		counter("messages_published_bytes", "Bytes of payload of published messages.", func(s broker.Stats) uint64 { return s.PublishedBytes }),
		counter("messages_rejected", "Messages of clients that were refused, with a coded error.", func(s broker.Stats) uint64 { return s.Rejected }),
		counter("messages_delivered", "Messages handed to streams and datagrams, each counted once a subscription or datagram.", func(s broker.Stats) uint64 { return s.Delivered }),
		counter("messages_delivered_bytes", "Bytes of frames of delivered messages.", func(s broker.Stats) uint64 { return s.DeliveredBytes }),
		counter("gaps", "Gaps told to subscribers.", func(s broker.Stats) uint64 { return s.Gaps }),
	}
}

func droppedDesc() *prometheus.Desc {
	return prometheus.NewDesc("tidewire_messages_dropped_total",
		"Messages that were not delivered, each under one reason. "+
			"overflow: the queue of a subscription was full. "+
			"budget: the queues of all subscriptions together were full. "+
			"conflated: a newer message took its place. "+
			"datagram: the transport did not take a datagram. "+
			"ended: the subscription ended before. "+
			"bad_datagram: a client's datagram was no message that it may publish. "+
			"rate_limited: a client's datagram was above its rate.",
		[]string{"reason"}, nil)
}

// collector reads broker.Stats for each scrape. It is immutable.
type collector struct {
	broker  *broker.Broker
	metrics []metric
	dropped *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		descs <- m.desc
	}
	descs <- c.dropped
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	stats := c.broker.Stats()
	for _, m := range c.metrics {
		metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(stats))
	}
	for reason, n := range stats.Dropped {
		metrics <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(n), reason.String())
	}
}
